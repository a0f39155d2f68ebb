"""The sections inside the `train` section of a recipe, typed."""

from dataclasses import dataclass
from typing import Literal

from provenlm.models.common.objective import ParamGroupName
from provenlm.models.generation.sampling import SamplingConfig


@dataclass(frozen=True)
class ParamGroupConfig:
    """How the parameters of one role are moved. `betas`: adamw and lion have two, muon and sgd one (their momentum)."""

    name: Literal["adamw", "muon", "lion", "sgd"]
    lr: float  # at the peak of the schedule
    betas: tuple[float, ...]
    weight_decay: float  # decoupled: each step shrinks by rate · weight_decay

    def __post_init__(self) -> None:
        num_betas = {"adamw": 2, "lion": 2, "muon": 1, "sgd": 1}[self.name]
        if len(self.betas) != num_betas or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {list(self.betas)}; {self.name} takes {num_betas}, each from 0 to below 1")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(f"rate is {self.lr} and weight_decay {self.weight_decay}; above 0 and not below 0 would be right")


@dataclass(frozen=True)
class OptimizerConfig:
    """A group for each role, and the largest global gradient norm (null: gradients are not clipped)."""

    embedding: ParamGroupConfig
    matrix: ParamGroupConfig
    default: ParamGroupConfig
    max_grad_norm: float | None

    def __post_init__(self) -> None:
        for name, group in (("embedding", self.embedding), ("rest", self.default)):
            if group.name == "muon":
                raise ValueError(f"{name}: muon turns matrices into rotations; for {name} adamw would be right")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"clip is {self.max_grad_norm}; above 0 or null would be right")

    def group_for(self, group_name: ParamGroupName) -> ParamGroupConfig:
        return {"embedding": self.embedding, "matrix": self.matrix, "rest": self.default}[group_name]


@dataclass(frozen=True)
class LRScheduleConfig:
    """Rates as a share of their peak: `warmup` steps up, `hold` steps at 1, then down to `final` at the last step.

    `hold: 0` is the plain linear or cosine schedule; a long `hold` with a linear decay is warmup-stable-decay. inverse_sqrt falls
    with 1/√step from where it begins, and never below `final`.
    """

    warmup_steps: int
    stable_steps: int
    decay_type: Literal["linear", "cosine", "inverse_sqrt"]
    min_lr_factor: float

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or self.stable_steps < 0 or not 0 <= self.min_lr_factor <= 1:
            raise ValueError(
                f"warmup, hold, final are {self.warmup_steps}, {self.stable_steps}, {self.min_lr_factor}; at least 0, at least 0, and 0 to 1 would be right"
            )


@dataclass(frozen=True)
class TrainEvalConfig:
    """Loss on `rows` rows of the validation split, evenly spaced: after the first step, every `every` steps, and after the last."""

    interval: int
    num_sequences: int

    def __post_init__(self) -> None:
        if self.interval < 1 or self.num_sequences < 1:
            raise ValueError(f"every and rows are {self.interval}, {self.num_sequences}; at least 1 would be right")


@dataclass(frozen=True)
class CheckpointConfig:
    """Save every `every` steps and keep the newest `last` of these, one more than needed in case the newest is damaged.

    What stays beside the net when training is done: those at multiples of `spaced` (null: none) and, with `best`, the one with the
    smallest held-out loss, for which also a step between the intervals is saved.
    """

    save_interval: int
    keep_latest_k: int
    keep_every_n_steps: int | None
    keep_best: bool

    def __post_init__(self) -> None:
        if self.save_interval < 1 or self.keep_latest_k < 1:
            raise ValueError(f"every and last are {self.save_interval}, {self.keep_latest_k}; at least 1 would be right")
        if self.keep_every_n_steps is not None and (self.keep_every_n_steps < 1 or self.keep_every_n_steps % self.save_interval):
            raise ValueError(
                f"spaced is {self.keep_every_n_steps}; a multiple of every, {self.save_interval}, or null would be right"
            )


@dataclass(frozen=True)
class SeqLenScheduleConfig:
    """Rows begin `begin` positions long and reach the full length after `steps`; each step has the same tokens all the while."""

    start: int
    steps: int
    shape: Literal["linear", "exponential", "cosine"]

    def __post_init__(self) -> None:
        if self.start < 1 or self.steps < 1:
            raise ValueError(f"begin and steps are {self.start}, {self.steps}; at least 1 would be right")


@dataclass(frozen=True)
class ReduceLROnPlateauConfig:
    """After `measurements` of the held-out loss without one that is smaller by `least`, all rates are multiplied by `factor`."""

    patience: int
    min_delta: float
    factor: float

    def __post_init__(self) -> None:
        _check_patience(self.patience, self.min_delta)
        if not 0 < self.factor < 1:
            raise ValueError(f"factor is {self.factor}; between 0 and 1 would be right")


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """After `measurements` of the held-out loss without one that is smaller by `least`, training ends."""

    patience: int
    min_delta: float

    def __post_init__(self) -> None:
        _check_patience(self.patience, self.min_delta)


def _check_patience(patience: int, min_delta: float) -> None:
    if patience < 1 or min_delta < 0:
        raise ValueError(f"measurements and least are {patience}, {min_delta}; at least 1 and not below 0 would be right")


@dataclass(frozen=True)
class SpikeGuardConfig:
    """What is done about updates that are not finite or whose loss or gradient norm stands out (null: the first not finite one stops).

    A step is skipped if a score is above `limit`; scores are against the last `window` accepted steps, once there are `least`. After
    `skips` of them `within` so many steps the run goes back to the last checkpoint, past the data seen since, at `slower` times the
    rates for `slower_steps`; at most `returns` times, then it stops.
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
        if not 2 <= self.min_history <= self.window_size:
            raise ValueError(
                f"least and window are {self.min_history}, {self.window_size}; at least 2, and no more than the window would be right"
            )
        if not 1 <= self.max_skips <= self.skip_window:
            raise ValueError(
                f"skips and within are {self.max_skips}, {self.skip_window}; at least 1, and no more than within would be right"
            )
        if self.threshold_std <= 0 or self.max_rollbacks < 0 or not 0 < self.rollback_lr_factor <= 1 or self.rollback_lr_steps < 0:
            raise ValueError(
                f"limit, returns, slower, slower_steps are {self.threshold_std}, {self.max_rollbacks}, {self.rollback_lr_factor}, {self.rollback_lr_steps}; "
                "above 0, at least 0, above 0 to 1, and at least 0 would be right"
            )


@dataclass(frozen=True)
class SampleConfig:
    """At every checkpoint the net goes on from each of `prompts` with up to `tokens` tokens."""

    prompts: tuple[str, ...]
    max_new_tokens: int
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        if not self.prompts or self.max_new_tokens < 1:
            raise ValueError("samples needs at least one of prompts and of tokens; null writes nothing")


@dataclass(frozen=True)
class DistributedConfig:
    """`processes` share each batch; with torchrun over several machines: all of them together. fsdp2 also shares the net out, each
    holding a part of weights and optimizer state; with ddp each holds all."""

    world_size: int
    strategy: Literal["ddp", "fsdp2"]

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"processes is {self.world_size}; at least 1 would be right")
