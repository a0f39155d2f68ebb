"""Define `TrainConfig`, the `train` section of a recipe."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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
    check_field,
)


@dataclass(frozen=True)
class TrainConfig:
    """Hold everything that determines the result of training.

    The result is the same bit for bit on one machine. The defaults are those of the default recipe; only a duration has none.
    """

    seed: int = 1
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"
    threads: int = 2  # CPU threads of torch; another number changes the order of sums
    precision: Literal["fp32", "bf16", "fp16"] = (
        "fp32"  # autocast dtype; weights stay fp32. fp16 scales the loss (optim/grad_scaler.py)
    )
    # concat_and_chunk: the token stream, cut every `seq_len` tokens. packed: the same, but attention stays within a document.
    # padded: one document per sequence
    data_packing: Literal["concat_and_chunk", "packed", "padded"] = "packed"
    batches: Mapping[str, Any] = field(default_factory=dict)  # the domain's own settings of its batches, such as augmentation
    seq_len: int = 256  # positions per sequence
    global_batch_size: int = 16  # sequences per step, over all processes
    # Sequences per forward pass. null: the whole batch of a process; auto: 4 to 64, as many as fit into memory
    micro_batch_size: int | Literal["auto"] | None = None
    activation_checkpointing: int | None = None  # blocks per checkpointed segment: saves memory, costs time. null: off
    compile: bool = False  # compile each block with torch.compile; needs a C++ compiler on a CPU
    label_smoothing: float = 0.0  # fraction of each training target spread over the vocabulary; the validation loss has none
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)
    ema_decay: float | None = (
        None  # decay of the moving average of the weights, which is evaluated and published. null: the last weights
    )
    eval: TrainEvalConfig | None = field(default_factory=TrainEvalConfig)  # null: no validation loss during training
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    spike_guard: SpikeGuardConfig | None = field(default_factory=SpikeGuardConfig)  # null: stop at the first NaN or Inf
    reduce_lr_on_plateau: ReduceLROnPlateauConfig | None = None
    early_stopping: EarlyStoppingConfig | None = None
    seq_len_schedule: SeqLenScheduleConfig | None = None  # null: all sequences have seq_len positions
    sample: SampleConfig | None = None  # null: no samples during training
    distributed: DistributedConfig | None = None  # null: one process
    loggers: tuple[Literal["tensorboard", "dvclive"], ...] = ()  # experiment trackers; install them with the extra `loggers`
    # Duration: exactly one of these three. Epochs and tokens (targets with a loss) become steps once the training split is known.
    max_steps: int | None = None
    epochs: float | None = None
    max_tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "seq_len", "global_batch_size", "micro_batch_size", "activation_checkpointing"):
            value = getattr(self, name)
            check_field(name, value, value in (None, "auto") or value >= 1, ">= 1")
        self._check_duration()
        self._check_batch_size()
        check_field("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, ">= 0 and < 1")
        check_field("ema_decay", self.ema_decay, self.ema_decay is None or 0 < self.ema_decay < 1, "> 0 and < 1, or null")
        for name, is_enabled in (
            ("checkpoints.keep_best", self.checkpoints.keep_best),
            ("reduce_lr_on_plateau", self.reduce_lr_on_plateau),
            ("early_stopping", self.early_stopping),
        ):
            if is_enabled and self.eval is None:
                raise ValueError(f"{name} needs the validation loss: eval must be set, got null")
        if self.seq_len_schedule is not None:
            if self.data_packing == "padded":
                raise ValueError("seq_len_schedule must be null with data_packing: padded, because documents cannot be split")
            start = self.seq_len_schedule.start
            check_field("seq_len_schedule.start", start, self.seq_len % start == 0, f"a divisor of seq_len, {self.seq_len}")

    def _check_batch_size(self) -> None:
        """Check that the processes and micro-batches divide the global batch."""
        world_size = self.distributed.world_size if self.distributed else 1
        if self.micro_batch_size == "auto":
            if self.distributed is not None:
                raise ValueError("micro_batch_size must be a number with distributed, got auto: it measures one process only")
        elif self.global_batch_size % ((self.micro_batch_size or 1) * world_size):
            factor_text = f" × {world_size} processes" if world_size > 1 else ""
            raise ValueError(
                f"micro_batch_size{factor_text} must divide global_batch_size, {self.global_batch_size}, got {self.micro_batch_size or 1}"
            )
        if self.sample is not None and self.distributed is not None and self.distributed.strategy == "fsdp2":
            raise ValueError("sample must be null with distributed.strategy: fsdp2, because no process holds the whole model")

    def _check_duration(self) -> None:
        """Check that exactly one duration is set and that the schedule fits into it."""
        durations = [value for value in (self.max_steps, self.epochs, self.max_tokens) if value is not None]
        if len(durations) != 1:
            raise ValueError(f"exactly one of max_steps, epochs and max_tokens must be set, got {self.duration or 'none'}")
        name = self.duration.partition(":")[0]
        check_field(name, durations[0], durations[0] > 0, "> 0")
        schedule_steps = self.lr_schedule.warmup_steps + self.lr_schedule.stable_steps
        if self.max_steps is not None and schedule_steps > self.max_steps:
            raise ValueError(
                f"lr_schedule.warmup_steps + lr_schedule.stable_steps must be <= {self.max_steps} steps, got {schedule_steps}"
            )

    @property
    def max_micro_batch_size(self) -> int:
        """Return the largest number of sequences per forward pass that the config allows."""
        if self.micro_batch_size == "auto":
            return self.global_batch_size
        return self.micro_batch_size or self.global_batch_size // (self.distributed.world_size if self.distributed else 1)

    @property
    def duration(self) -> str:
        """Return the duration as text, as the config states it."""
        names = ("max_steps", "epochs", "max_tokens")
        return " and ".join(f"{name}: {value:g}" for name in names if (value := getattr(self, name)) is not None)

    @property
    def total_steps(self) -> int:
        """Return the number of steps.

        Raises ValueError for a duration in epochs or tokens: see `resolve_max_steps`.
        """
        if self.max_steps is None:
            raise ValueError("max_steps is not set: resolve_max_steps converts epochs and tokens")
        return self.max_steps

    @property
    def result_fields(self) -> dict[str, object]:
        """Return the fields that determine the weights.

        Loggers and samples do not; the number of processes only changes the order of sums.
        """
        return {name: value for name, value in asdict(self).items() if name not in ("distributed", "sample", "loggers")}
