"""Define the sections of `TrainConfig`."""

from dataclasses import dataclass, field
from typing import Literal

from provenlm.models.common.objective import ParamGroupName
from provenlm.models.generation.sampling import SamplingConfig


def check_field(name: str, value: object, is_valid: bool, expected: str) -> None:
    """Raise ValueError "`name` must be `expected`, got `value`" unless `is_valid`."""
    if not is_valid:
        raise ValueError(f"{name} must be {expected}, got {'null' if value is None else value}")


@dataclass(frozen=True)
class ParamGroupConfig:
    """Configure the optimizer of one parameter group.

    `betas`: two for adamw and lion, one (the momentum) for muon and sgd, which need their own.
    """

    name: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    lr: float = 0.01  # at the peak of the schedule
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.0  # decoupled: each step shrinks the weights by lr · weight_decay

    def __post_init__(self) -> None:
        num_betas = {"adamw": 2, "lion": 2, "muon": 1, "sgd": 1}[self.name]
        if len(self.betas) != num_betas or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be {num_betas} numbers >= 0 and < 1 for {self.name}, got {list(self.betas)}")
        check_field("lr", self.lr, self.lr > 0, "> 0")
        check_field("weight_decay", self.weight_decay, self.weight_decay >= 0, ">= 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """Configure the optimizer of each parameter group and gradient clipping.

    By default Muon updates the matrices and AdamW the embeddings and everything else; the rates suit models of a hidden size near 192
    (`provenlm plan` scales them).
    `max_grad_norm` is the largest global gradient norm; null: no clipping. `lr_factors` multiplies the learning rates of
    single objectives, by name; objectives without a factor keep the rates of their groups.
    """

    embedding: ParamGroupConfig = field(default_factory=lambda: ParamGroupConfig(lr=0.012))
    matrix: ParamGroupConfig = field(default_factory=lambda: ParamGroupConfig("muon", 0.015, (0.95,), 0.01))
    default: ParamGroupConfig = field(default_factory=ParamGroupConfig)
    max_grad_norm: float | None = 1.0
    lr_factors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, factor in self.lr_factors.items():
            check_field(f"lr_factors.{name}", factor, factor > 0, "> 0")
        for name, group in (("embedding", self.embedding), ("default", self.default)):
            check_field(f"{name}.name", group.name, group.name != "muon", "adamw, lion or sgd (muon is for matrices)")
        check_field("max_grad_norm", self.max_grad_norm, self.max_grad_norm is None or self.max_grad_norm > 0, "> 0 or null")

    def group_for(self, group_name: ParamGroupName) -> ParamGroupConfig:
        """Return the config of a parameter group."""
        return {"embedding": self.embedding, "matrix": self.matrix, "default": self.default}[group_name]


@dataclass(frozen=True)
class LRScheduleConfig:
    """Configure the learning-rate schedule, as a factor on each group's peak.

    `warmup_steps` steps up, `stable_steps` steps at 1, then decay to `min_lr_factor` at the last step. `stable_steps: 0` gives the plain
    linear or cosine schedule; many stable steps with a linear decay give warmup-stable-decay. inverse_sqrt falls with 1/√step and never
    below `min_lr_factor`.
    """

    warmup_steps: int = 10
    stable_steps: int = 0
    decay_type: Literal["linear", "cosine", "inverse_sqrt"] = "linear"
    min_lr_factor: float = 0.0

    def __post_init__(self) -> None:
        check_field("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, ">= 0")
        check_field("stable_steps", self.stable_steps, self.stable_steps >= 0, ">= 0")
        check_field("min_lr_factor", self.min_lr_factor, 0 <= self.min_lr_factor <= 1, ">= 0 and <= 1")


@dataclass(frozen=True)
class TrainEvalConfig:
    """Configure the validation loss during training.

    It is computed on `num_sequences` evenly spaced sequences of the validation split: after the first step, every `interval` steps, and
    after the last step.
    """

    interval: int = 50
    num_sequences: int = 32

    def __post_init__(self) -> None:
        check_field("interval", self.interval, self.interval >= 1, ">= 1")
        check_field("num_sequences", self.num_sequences, self.num_sequences >= 1, ">= 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """Configure when checkpoints are saved and which are kept.

    Every `save_interval` steps one is saved; the latest `keep_latest_k` of them are kept (two survive a damaged latest one). After
    training, those at multiples of `keep_every_n_steps` (null: none) and, with `keep_best`, the one with the smallest validation loss stay
    beside the model; `keep_best` also saves a best step between two intervals.
    """

    save_interval: int = 50
    keep_latest_k: int = 2
    keep_every_n_steps: int | None = None
    keep_best: bool = False

    def __post_init__(self) -> None:
        check_field("save_interval", self.save_interval, self.save_interval >= 1, ">= 1")
        check_field("keep_latest_k", self.keep_latest_k, self.keep_latest_k >= 1, ">= 1")
        steps = self.keep_every_n_steps
        is_valid = steps is None or (steps >= 1 and steps % self.save_interval == 0)
        check_field("keep_every_n_steps", steps, is_valid, f"a multiple of save_interval, {self.save_interval}, or null")


@dataclass(frozen=True)
class SeqLenScheduleConfig:
    """Configure a warm-up of the sequence length.

    Sequences start at `start` positions and reach `seq_len` after `steps` steps; every step has the same number of tokens.
    """

    start: int
    steps: int
    shape: Literal["linear", "exponential", "cosine"] = "linear"

    def __post_init__(self) -> None:
        check_field("start", self.start, self.start >= 1, ">= 1")
        check_field("steps", self.steps, self.steps >= 1, ">= 1")


@dataclass(frozen=True)
class ReduceLROnPlateauConfig:
    """Configure a reduction of the learning rates when the validation loss stalls.

    After `patience` evaluations without an improvement of at least `min_delta`, all rates are multiplied by `factor`.
    """

    patience: int = 5
    min_delta: float = 0.0
    factor: float = 0.5

    def __post_init__(self) -> None:
        _check_patience(self.patience, self.min_delta)
        check_field("factor", self.factor, 0 < self.factor < 1, "> 0 and < 1")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Configure early stopping on the validation loss.

    Training ends after `patience` evaluations without an improvement of at least `min_delta`.
    """

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        _check_patience(self.patience, self.min_delta)


def _check_patience(patience: int, min_delta: float) -> None:
    check_field("patience", patience, patience >= 1, ">= 1")
    check_field("min_delta", min_delta, min_delta >= 0, ">= 0")


@dataclass(frozen=True)
class SpikeGuardConfig:
    """Configure how training reacts to loss and gradient spikes.

    An update is skipped if the robust z-score of its loss or gradient norm, against the last `window_size` accepted steps, is above
    `threshold_std`; scoring begins after `min_history` steps. Updates that are not finite are always skipped. After `max_skips` skips
    within `skip_window` steps, training rolls back to the latest checkpoint, does not repeat the data drawn since, and scales the learning
    rates by `rollback_lr_factor` for `rollback_lr_steps` steps. After `max_rollbacks` rollbacks the next one stops training.
    """

    window_size: int = 128
    min_history: int = 64
    threshold_std: float = 6.0
    max_skips: int = 5
    skip_window: int = 50
    max_rollbacks: int = 3
    rollback_lr_factor: float = 0.5
    rollback_lr_steps: int = 200

    def __post_init__(self) -> None:
        is_valid = 2 <= self.min_history <= self.window_size
        check_field("min_history", self.min_history, is_valid, f">= 2 and <= window_size, {self.window_size}")
        is_valid = 1 <= self.max_skips <= self.skip_window
        check_field("max_skips", self.max_skips, is_valid, f">= 1 and <= skip_window, {self.skip_window}")
        check_field("threshold_std", self.threshold_std, self.threshold_std > 0, "> 0")
        check_field("max_rollbacks", self.max_rollbacks, self.max_rollbacks >= 0, ">= 0")
        check_field("rollback_lr_factor", self.rollback_lr_factor, 0 < self.rollback_lr_factor <= 1, "> 0 and <= 1")
        check_field("rollback_lr_steps", self.rollback_lr_steps, self.rollback_lr_steps >= 0, ">= 0")


@dataclass(frozen=True)
class SampleConfig:
    """Configure the text that the model generates at every checkpoint.

    Each of `prompts` is continued by at most `max_new_tokens` tokens.
    """

    prompts: tuple[str, ...]
    max_new_tokens: int = 32
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(0.8, 50, 0.95, 1.0))

    def __post_init__(self) -> None:
        check_field("prompts", list(self.prompts), len(self.prompts) > 0, "at least one text (sample: null generates nothing)")
        check_field("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, ">= 1")


@dataclass(frozen=True)
class DistributedConfig:
    """Configure distributed training.

    `world_size` counts the processes on all machines; they split each batch. With ddp each process holds the whole model; with fsdp2 each
    holds a shard of the weights, gradients and optimizer state.
    """

    world_size: int
    strategy: Literal["ddp", "fsdp2"] = "ddp"

    def __post_init__(self) -> None:
        check_field("world_size", self.world_size, self.world_size >= 1, ">= 1")
