"""Define `validate.probes` of recipes for music."""

from dataclasses import dataclass, field
from typing import Literal

from provenlm.training.config_sections import check_field


@dataclass(frozen=True)
class DataConfiguration:
    """Configure one way to cut the corpus into training sequences.

    seq_len, data_packing: as in the section `train`. start: positions of the first sequences of a training with growing sequences; null:
    all have `seq_len` positions.
    """

    seq_len: int
    data_packing: Literal["concat_and_chunk", "packed"] = "concat_and_chunk"
    start: int | None = None

    def __post_init__(self) -> None:
        check_field("seq_len", self.seq_len, self.seq_len >= 1, ">= 1")
        is_divisor = self.start is None or (self.start >= 1 and self.seq_len % self.start == 0)
        check_field("start", self.start, is_divisor, f"a divisor of seq_len, {self.seq_len}, or null")


def default_data_configurations() -> dict[str, DataConfiguration]:
    """Return the three configurations of the audit.

    Windows of 512, sequences that grow from 512 to 1024, and 2048 with attention within a piece.
    """
    return {
        "windows_512": DataConfiguration(512),
        "growing_1024": DataConfiguration(1024, start=512),
        "packed_2048": DataConfiguration(2048, "packed"),
    }


@dataclass(frozen=True)
class PerformanceConfig:
    """Configure the measurement of speed and memory.

    seq_lens: lengths that are measured, as far as the model accepts them. batch_size: sequences of a forward pass and of a step.
    num_iters: timed repetitions, after `num_warmup` untimed ones. num_generated: tokens that each sequence is continued by.
    """

    seq_lens: tuple[int, ...] = (512, 1024, 2048)
    batch_size: int = 2
    num_iters: int = 7
    num_warmup: int = 2
    num_generated: int = 16

    def __post_init__(self) -> None:
        lengths = list(self.seq_lens)
        check_field(
            "seq_lens", lengths, bool(lengths) and sorted(set(lengths)) == lengths and min(lengths) > 1, "increasing lengths > 1"
        )
        for name, low in (("batch_size", 1), ("num_iters", 3), ("num_warmup", 1), ("num_generated", 2)):
            check_field(name, getattr(self, name), getattr(self, name) >= low, f">= {low}")
        check_field(
            "num_generated", self.num_generated, self.num_generated < min(lengths), f"< {min(lengths)}, the shortest length"
        )


@dataclass(frozen=True)
class LatentEvalConfig:
    """Configure the probes of models with latents.

    num_sequences: held-out sequences that are scored and of which latents are taken. num_pairs: pairs of pieces between which latents
    are interpolated, in `num_points` points. num_requests: sequences that are generated for each class of an attribute.
    max_new_tokens: of each generated sequence. overfit_steps: of a small model that learns one batch.
    """

    num_sequences: int = 64
    num_reconstructions: int = 16
    num_pairs: int = 4
    num_points: int = 5
    num_requests: int = 4
    max_new_tokens: int = 256
    overfit_steps: int = 150

    def __post_init__(self) -> None:
        for name, low in (
            ("overfit_steps", 2),
            ("num_sequences", 2),
            ("num_reconstructions", 2),
            ("num_pairs", 1),
            ("num_points", 3),
            ("num_requests", 1),
            ("max_new_tokens", 16),
        ):
            check_field(name, getattr(self, name), getattr(self, name) >= low, f">= {low}")


@dataclass(frozen=True)
class ExampleConfig:
    """Configure the examples that the page shows and plays.

    num_pairs: blind pairs of a sample and a real piece. num_samples: samples, and as many real pieces, with their titles.
    num_continuations: held-out pieces whose first `num_prompt_tokens` tokens are continued. num_reconstructions: held-out sequences that
    are generated again from their latents. num_points: of an interpolation. seconds: length of a piano roll and of its audio.
    """

    num_pairs: int = 3
    num_samples: int = 3
    num_continuations: int = 2
    num_prompt_tokens: int = 64
    num_reconstructions: int = 2
    num_points: int = 5
    seconds: float = 12.0

    def __post_init__(self) -> None:
        for name, low in (
            ("num_pairs", 0),
            ("num_samples", 1),
            ("num_continuations", 1),
            ("num_prompt_tokens", 1),
            ("num_reconstructions", 1),
            ("num_points", 3),
            ("seconds", 1),
        ):
            check_field(name, getattr(self, name), getattr(self, name) >= low, f">= {low}")


@dataclass(frozen=True)
class MusicEvalConfig:
    """Configure the evaluation of a recipe on music.

    ngram_order: tokens of the longest n-gram of the baseline. num_val_tokens: about how many held-out tokens are scored.
    num_samples, num_sample_tokens: generated pieces and their length; real pieces are cut to the same length.
    """

    ngram_order: int = 6
    num_val_tokens: int = 100_000
    tokens_per_batch: int = 4096
    num_samples: int = 24
    num_sample_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 0.95
    data_configurations: dict[str, DataConfiguration] = field(default_factory=default_data_configurations)
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)
    latents: LatentEvalConfig = field(default_factory=LatentEvalConfig)
    examples: ExampleConfig = field(default_factory=ExampleConfig)

    def __post_init__(self) -> None:
        for name, low in (
            ("ngram_order", 2),
            ("num_val_tokens", 1),
            ("tokens_per_batch", 1),
            ("num_samples", 2),
            ("num_sample_tokens", 32),
        ):
            check_field(name, getattr(self, name), getattr(self, name) >= low, f">= {low}")
