"""Define the sections of `TrainConfig`."""

from dataclasses import dataclass
from typing import Literal

from provenlm.models.common.objective import ParamGroupName
from provenlm.models.generation.sampling import SamplingConfig


def check_field(name: str, value: object, is_valid: bool, expected: str) -> None:
    """Raise ValueError with "`name` must be `expected`, got `value`" unless `is_valid`."""
    if not is_valid:
        raise ValueError(f"{name} must be {expected}, got {'null' if value is None else value}")


@dataclass(frozen=True)
class ParamGroupConfig:
    """Configure the optimizer of one parameter group.

    `betas`: two for adamw and lion, one (the momentum) for muon and sgd.
    """

    name: Literal["adamw", "muon", "lion", "sgd"]
    lr: float  # at the peak of the schedule
    betas: tuple[float, ...]
    weight_decay: float  # decoupled: each step shrinks the weights by lr · weight_decay

    def __post_init__(self) -> None:
        num_betas = {"adamw": 2, "lion": 2, "muon": 1, "sgd": 1}[self.name]
        if len(self.betas) != num_betas or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be {num_betas} numbers >= 0 and < 1 for {self.name}, got {list(self.betas)}")
        check_field("lr", self.lr, self.lr > 0, "> 0")
        check_field("weight_decay", self.weight_decay, self.weight_decay >= 0, ">= 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """Configure the optimizer of each parameter group and gradient clipping.

    `max_grad_norm` is the largest global gradient norm; null: no clipping.
    """

    embedding: ParamGroupConfig
    matrix: ParamGroupConfig
    default: ParamGroupConfig
    max_grad_norm: float | None

    def __post_init__(self) -> None:
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

    warmup_steps: int
    stable_steps: int
    decay_type: Literal["linear", "cosine", "inverse_sqrt"]
    min_lr_factor: float

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

    interval: int
    num_sequences: int

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

    save_interval: int
    keep_latest_k: int
    keep_every_n_steps: int | None
    keep_best: bool

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
    shape: Literal["linear", "exponential", "cosine"]

    def __post_init__(self) -> None:
        check_field("start", self.start, self.start >= 1, ">= 1")
        check_field("steps", self.steps, self.steps >= 1, ">= 1")


@dataclass(frozen=True)
class ReduceLROnPlateauConfig:
    """Configure a reduction of the learning rates when the validation loss stalls.

    After `patience` evaluations without an improvement of at least `min_delta`, all rates are multiplied by `factor`.
    """

    patience: int
    min_delta: float
    factor: float

    def __post_init__(self) -> None:
        _check_patience(self.patience, self.min_delta)
        check_field("factor", self.factor, 0 < self.factor < 1, "> 0 and < 1")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Configure early stopping on the validation loss.

    Training ends after `patience` evaluations without an improvement of at least `min_delta`.
    """

    patience: int
    min_delta: float

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

    window_size: int
    min_history: int
    threshold_std: float
    max_skips: int
    skip_window: int
    max_rollbacks: int
    rollback_lr_factor: float
    rollback_lr_steps: int

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
    max_new_tokens: int
    sampling: SamplingConfig

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
    strategy: Literal["ddp", "fsdp2"]

    def __post_init__(self) -> None:
        check_field("world_size", self.world_size, self.world_size >= 1, ">= 1")
