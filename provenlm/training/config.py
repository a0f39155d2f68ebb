"""The `train` section of a recipe, typed."""

from dataclasses import asdict, dataclass
from typing import Literal

from provenlm.training.config_sections import (
    CheckpointConfig,
    DistributedConfig,
    EarlyStoppingConfig,
    LRScheduleConfig,
    OptimizerConfig,
    ReduceLROnPlateauConfig,
    SampleConfig,
    SeqLenScheduleConfig,
    SpikeGuardConfig,
    TrainEvalConfig,
)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes, and so its result bit for bit on one machine."""

    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int  # of torch on the CPU; another number gives sums in another order
    precision: Literal["fp32", "bf16", "fp16"]  # of products; weights stay fp32. fp16 scales the loss (see scaler.py)
    data_packing: Literal[
        "windows", "packed", "documents"
    ]  # the stream cut every `length`; so, but each document by itself; one a row
    seq_len: int  # positions a row
    global_batch_size: int  # rows a step
    micro_batch_size: (
        int | Literal["auto"]
    )  # rows at a time; `batch` is gathered over several passes. auto: 4 to 64, as memory holds
    activation_checkpointing: (
        int | None
    )  # so many blocks together keep only their input, and are computed again in the backward pass; less memory
    compile: bool  # each block, by torch.compile; needs a C++ compiler on a CPU
    label_smoothing: float  # share of each training target that is spread over the vocabulary; held-out loss is without
    optimizer: OptimizerConfig
    lr_schedule: LRScheduleConfig
    ema_decay: float | None  # decay of the average of the weights that is published and judged in their place
    eval: TrainEvalConfig | None
    checkpoints: CheckpointConfig
    spike_guard: SpikeGuardConfig | None
    reduce_lr_on_plateau: ReduceLROnPlateauConfig | None
    early_stopping: EarlyStoppingConfig | None
    seq_len_schedule: SeqLenScheduleConfig | None
    sample: SampleConfig | None
    distributed: DistributedConfig | None  # null: one process
    loggers: tuple[Literal["tensorboard", "dvclive"], ...]  # who else is told of each step; they come with the extra `watch`
    # How long: one of these three. Epochs and tokens (targets that carry loss) become steps once the training split is known.
    max_steps: int | None = None
    epochs: float | None = None
    max_tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "length", "batch", "micro_batch", "recompute"):
            if (value := getattr(self, name)) not in (None, "auto") and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self._check_duration()
        self._check_batch_size()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; from 0 to below 1 would be right")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema is {self.ema_decay}; between 0 and 1, or null, would be right")
        for name, is_enabled in (
            ("checkpoints.best", self.checkpoints.keep_best),
            ("plateau", self.reduce_lr_on_plateau),
            ("early_stop", self.early_stopping),
        ):
            if is_enabled and self.eval is None:
                raise ValueError(f"{name} needs held_out, whose loss it looks at")
        if self.seq_len_schedule is not None and self.data_packing == "documents":
            raise ValueError(f"curriculum cuts windows shorter; batches is {self.data_packing}, so null would be right")
        if self.seq_len_schedule is not None and self.seq_len % self.seq_len_schedule.start:
            raise ValueError(
                f"curriculum.begin is {self.seq_len_schedule.start}; a divisor of length, {self.seq_len}, would be right"
            )

    def _check_batch_size(self) -> None:
        world_size = self.distributed.world_size if self.distributed else 1
        if self.micro_batch_size == "auto":
            if self.distributed is not None:
                raise ValueError("micro_batch: auto asks the memory of one process; with parallel a number would be right")
        elif self.global_batch_size % (self.micro_batch_size * world_size):
            factor_text = f" times {world_size} processes" if world_size > 1 else ""
            raise ValueError(f"micro_batch is {self.micro_batch_size}; it{factor_text} must divide batch, {self.global_batch_size}")
        if self.sample is not None and self.distributed is not None and self.distributed.strategy == "fsdp2":
            raise ValueError("samples are written by one process, and with fsdp2 none has the whole net; null would be right")

    def _check_duration(self) -> None:
        durations = [value for value in (self.max_steps, self.epochs, self.max_tokens) if value is not None]
        if len(durations) != 1:
            problem = f"{self.duration} are" if durations else "none of them is"
            raise ValueError(f"a training lasts for steps, epochs or tokens; {problem} given, exactly one would be right")
        if durations[0] <= 0:
            raise ValueError(f"{self.duration}; above 0 would be right")
        if self.max_steps is not None and self.lr_schedule.warmup_steps + self.lr_schedule.stable_steps > self.max_steps:
            raise ValueError(f"schedule: warmup and hold take more than the {self.max_steps} steps that there are")

    @property
    def max_micro_batch_size(self) -> int:
        """At a time, as far as the settings say."""
        return self.global_batch_size if self.micro_batch_size == "auto" else self.micro_batch_size

    @property
    def duration(self) -> str:
        """As it was asked for, in words."""
        return " and ".join(f"{name}: {v:g}" for name in ("steps", "epochs", "tokens") if (v := getattr(self, name)) is not None)

    @property
    def total_steps(self) -> int:
        """Of the whole training. ValueError as long as it is to last for epochs or tokens: see `batches.in_steps`."""
        if self.max_steps is None:
            raise ValueError("a duration in epochs or tokens is not yet one in steps")
        return self.max_steps

    @property
    def result_fields(self) -> dict[str, object]:
        """What decides the weights; who looks on does not, nor, but for the order of sums, how many compute."""
        return {name: value for name, value in asdict(self).items() if name not in ("parallel", "samples", "watch")}
