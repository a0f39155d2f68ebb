"""The sections inside the `train` section of a recipe, typed."""

from dataclasses import dataclass
from typing import Literal

from provenlm.models.common.objective import Role
from provenlm.models.generation.sampling import Sampling


@dataclass(frozen=True)
class Group:
    """How the parameters of one role are moved. `betas`: adamw and lion have two, muon and sgd one (their momentum)."""

    kind: Literal["adamw", "muon", "lion", "sgd"]
    rate: float  # at the peak of the schedule
    betas: tuple[float, ...]
    weight_decay: float  # decoupled: each step shrinks by rate · weight_decay

    def __post_init__(self) -> None:
        wanted = {"adamw": 2, "lion": 2, "muon": 1, "sgd": 1}[self.kind]
        if len(self.betas) != wanted or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {list(self.betas)}; {self.kind} takes {wanted}, each from 0 to below 1")
        if self.rate <= 0 or self.weight_decay < 0:
            raise ValueError(f"rate is {self.rate} and weight_decay {self.weight_decay}; above 0 and not below 0 would be right")


@dataclass(frozen=True)
class Optimizer:
    """A group for each role, and the largest global gradient norm (null: gradients are not clipped)."""

    embedding: Group
    matrix: Group
    rest: Group
    clip: float | None

    def __post_init__(self) -> None:
        for name, group in (("embedding", self.embedding), ("rest", self.rest)):
            if group.kind == "muon":
                raise ValueError(f"{name}: muon turns matrices into rotations; for {name} adamw would be right")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; above 0 or null would be right")

    def of(self, role: Role) -> Group:
        return {"embedding": self.embedding, "matrix": self.matrix, "rest": self.rest}[role]


@dataclass(frozen=True)
class Schedule:
    """Rates as a share of their peak: `warmup` steps up, `hold` steps at 1, then down to `final` at the last step.

    `hold: 0` is the plain linear or cosine schedule; a long `hold` with a linear decay is warmup-stable-decay. inverse_sqrt falls
    with 1/√step from where it begins, and never below `final`.
    """

    warmup: int
    hold: int
    decay: Literal["linear", "cosine", "inverse_sqrt"]
    final: float

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.hold < 0 or not 0 <= self.final <= 1:
            raise ValueError(
                f"warmup, hold, final are {self.warmup}, {self.hold}, {self.final}; at least 0, at least 0, and 0 to 1 would be right"
            )


@dataclass(frozen=True)
class HeldOut:
    """Loss on `rows` rows of the validation split, evenly spaced: after the first step, every `every` steps, and after the last."""

    every: int
    rows: int

    def __post_init__(self) -> None:
        if self.every < 1 or self.rows < 1:
            raise ValueError(f"every and rows are {self.every}, {self.rows}; at least 1 would be right")


@dataclass(frozen=True)
class Checkpoints:
    """Save every `every` steps and keep the newest `last` of these, one more than needed in case the newest is damaged.

    What stays beside the net when training is done: those at multiples of `spaced` (null: none) and, with `best`, the one with the
    smallest held-out loss, for which also a step between the intervals is saved.
    """

    every: int
    last: int
    spaced: int | None
    best: bool

    def __post_init__(self) -> None:
        if self.every < 1 or self.last < 1:
            raise ValueError(f"every and last are {self.every}, {self.last}; at least 1 would be right")
        if self.spaced is not None and (self.spaced < 1 or self.spaced % self.every):
            raise ValueError(f"spaced is {self.spaced}; a multiple of every, {self.every}, or null would be right")


@dataclass(frozen=True)
class Curriculum:
    """Rows begin `begin` positions long and reach the full length after `steps`; each step has the same tokens all the while."""

    begin: int
    steps: int
    growth: Literal["linear", "exponential", "cosine"]

    def __post_init__(self) -> None:
        if self.begin < 1 or self.steps < 1:
            raise ValueError(f"begin and steps are {self.begin}, {self.steps}; at least 1 would be right")


@dataclass(frozen=True)
class Plateau:
    """After `measurements` of the held-out loss without one that is smaller by `least`, all rates are multiplied by `factor`."""

    measurements: int
    least: float
    factor: float

    def __post_init__(self) -> None:
        _patient(self.measurements, self.least)
        if not 0 < self.factor < 1:
            raise ValueError(f"factor is {self.factor}; between 0 and 1 would be right")


@dataclass(frozen=True)
class EarlyStop:
    """After `measurements` of the held-out loss without one that is smaller by `least`, training ends."""

    measurements: int
    least: float

    def __post_init__(self) -> None:
        _patient(self.measurements, self.least)


def _patient(measurements: int, least: float) -> None:
    if measurements < 1 or least < 0:
        raise ValueError(f"measurements and least are {measurements}, {least}; at least 1 and not below 0 would be right")


@dataclass(frozen=True)
class Stability:
    """What is done about updates that are not finite or whose loss or gradient norm stands out (null: the first not finite one stops).

    A step is skipped if a score is above `limit`; scores are against the last `window` accepted steps, once there are `least`. After
    `skips` of them `within` so many steps the run goes back to the last checkpoint, past the data seen since, at `slower` times the
    rates for `slower_steps`; at most `returns` times, then it stops.
    """

    window: int
    least: int
    limit: float
    skips: int
    within: int
    returns: int
    slower: float
    slower_steps: int

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.window:
            raise ValueError(
                f"least and window are {self.least}, {self.window}; at least 2, and no more than the window would be right"
            )
        if not 1 <= self.skips <= self.within:
            raise ValueError(
                f"skips and within are {self.skips}, {self.within}; at least 1, and no more than within would be right"
            )
        if self.limit <= 0 or self.returns < 0 or not 0 < self.slower <= 1 or self.slower_steps < 0:
            raise ValueError(
                f"limit, returns, slower, slower_steps are {self.limit}, {self.returns}, {self.slower}, {self.slower_steps}; "
                "above 0, at least 0, above 0 to 1, and at least 0 would be right"
            )


@dataclass(frozen=True)
class Samples:
    """At every checkpoint the net goes on from each of `prompts` with up to `tokens` tokens."""

    prompts: tuple[str, ...]
    tokens: int
    sampling: Sampling

    def __post_init__(self) -> None:
        if not self.prompts or self.tokens < 1:
            raise ValueError("samples needs at least one of prompts and of tokens; null writes nothing")


@dataclass(frozen=True)
class Parallel:
    """`processes` share each batch; with torchrun over several machines: all of them together. fsdp2 also shares the net out, each
    holding a part of weights and optimizer state; with ddp each holds all."""

    processes: int
    way: Literal["ddp", "fsdp2"]

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}; at least 1 would be right")
