"""The `train` section of a recipe, typed."""

from dataclasses import asdict, dataclass
from typing import Literal

from provenlm.training.config_sections import (
    Checkpoints,
    Curriculum,
    EarlyStop,
    HeldOut,
    Optimizer,
    Parallel,
    Plateau,
    Samples,
    Schedule,
    Stability,
)


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
