"""The `train` section of a recipe, typed."""

from dataclasses import asdict, dataclass
from typing import Literal

from provenlm.layers.sampling import Sampling
from provenlm.training.objective import Role


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


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a training run computes, and so its result bit for bit on one machine."""

    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int  # of torch on the CPU; another number gives sums in another order
    precision: Literal["fp32", "bf16", "fp16"]  # of products; weights stay fp32. fp16 scales the loss (see scaler.py)
    batches: Literal["windows", "packed", "documents"]  # the stream cut every `length`; so, but each document by itself; one a row
    length: int  # positions a row
    batch: int  # rows a step
    micro_batch: int | Literal["auto"]  # rows at a time; `batch` is gathered over several passes. auto: 4 to 64, as memory holds
    recompute: int | None  # so many blocks together keep only their input, and are computed again in the backward pass; less memory
    compile: bool  # each block, by torch.compile; needs a C++ compiler on a CPU
    label_smoothing: float  # share of each training target that is spread over the vocabulary; held-out loss is without
    optimizer: Optimizer
    schedule: Schedule
    ema: float | None  # decay of the average of the weights that is published and judged in their place
    held_out: HeldOut | None
    checkpoints: Checkpoints
    stability: Stability | None
    plateau: Plateau | None
    early_stop: EarlyStop | None
    curriculum: Curriculum | None
    samples: Samples | None
    parallel: Parallel | None  # null: one process
    watch: tuple[Literal["tensorboard", "dvclive"], ...]  # who else is told of each step; they come with the extra `watch`
    # How long: one of these three. Epochs and tokens (targets that carry loss) become steps once the training split is known.
    steps: int | None = None
    epochs: float | None = None
    tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "length", "batch", "micro_batch", "recompute"):
            if (value := getattr(self, name)) not in (None, "auto") and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self._check_duration()
        self._check_rows()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; from 0 to below 1 would be right")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; between 0 and 1, or null, would be right")
        for name, wanted in (
            ("checkpoints.best", self.checkpoints.best),
            ("plateau", self.plateau),
            ("early_stop", self.early_stop),
        ):
            if wanted and self.held_out is None:
                raise ValueError(f"{name} needs held_out, whose loss it looks at")
        if self.curriculum is not None and self.batches == "documents":
            raise ValueError(f"curriculum cuts windows shorter; batches is {self.batches}, so null would be right")
        if self.curriculum is not None and self.length % self.curriculum.begin:
            raise ValueError(f"curriculum.begin is {self.curriculum.begin}; a divisor of length, {self.length}, would be right")

    def _check_rows(self) -> None:
        processes = self.parallel.processes if self.parallel else 1
        if self.micro_batch == "auto":
            if self.parallel is not None:
                raise ValueError("micro_batch: auto asks the memory of one process; with parallel a number would be right")
        elif self.batch % (self.micro_batch * processes):
            times = f" times {processes} processes" if processes > 1 else ""
            raise ValueError(f"micro_batch is {self.micro_batch}; it{times} must divide batch, {self.batch}")
        if self.samples is not None and self.parallel is not None and self.parallel.way == "fsdp2":
            raise ValueError("samples are written by one process, and with fsdp2 none has the whole net; null would be right")

    def _check_duration(self) -> None:
        given = [value for value in (self.steps, self.epochs, self.tokens) if value is not None]
        if len(given) != 1:
            said = f"{self.duration} are" if given else "none of them is"
            raise ValueError(f"a training lasts for steps, epochs or tokens; {said} given, exactly one would be right")
        if given[0] <= 0:
            raise ValueError(f"{self.duration}; above 0 would be right")
        if self.steps is not None and self.schedule.warmup + self.schedule.hold > self.steps:
            raise ValueError(f"schedule: warmup and hold take more than the {self.steps} steps that there are")

    @property
    def most_rows(self) -> int:
        """At a time, as far as the settings say."""
        return self.batch if self.micro_batch == "auto" else self.micro_batch

    @property
    def duration(self) -> str:
        """As it was asked for, in words."""
        return " and ".join(f"{name}: {v:g}" for name in ("steps", "epochs", "tokens") if (v := getattr(self, name)) is not None)

    @property
    def total_steps(self) -> int:
        """Of the whole training. ValueError as long as it is to last for epochs or tokens: see `batches.in_steps`."""
        if self.steps is None:
            raise ValueError("a duration in epochs or tokens is not yet one in steps")
        return self.steps

    @property
    def deciding(self) -> dict[str, object]:
        """What decides the weights; who looks on does not, nor, but for the order of sums, how many compute."""
        return {name: value for name, value in asdict(self).items() if name not in ("parallel", "samples", "watch")}
