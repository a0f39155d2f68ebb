"""Generate continuations and measure their quality.

Quality is diversity, repetition and overlap with the training data.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from provenlm.core import rng
from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.progress import progress_bar
from provenlm.evaluation.generate import generate
from provenlm.evaluation.ngram_overlap import SuffixArray
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.generation.sampling import GREEDY, SamplingConfig

SAMPLING_CONFIGS = {
    "greedy": GREEDY,
    "warm": SamplingConfig(temperature=0.8, top_k=50, top_p=0.95, repetition_penalty=1.0),
    "plain": SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0),
}
REPEAT_NGRAM = 4  # n-gram size of seq-rep-4 (Welleck et al. 2020, arXiv 1908.04319)


@dataclass(frozen=True)
class GenerationEvalConfig:
    """Configure the generation probe."""

    prompts: tuple[str, ...] = ()
    num_val_prompts: int = 4  # prompts taken from the beginnings of validation documents
    prompt_tokens: int | None = None  # of a prompt from a validation document; null: an eighth of the training sequence, at most 32
    max_new_tokens: int | None = None  # null: a quarter of the training sequence, at most 64
    sampling_configs: dict[str, SamplingConfig] = field(default_factory=lambda: dict(SAMPLING_CONFIGS))

    def __post_init__(self) -> None:
        for name, value, minimum in (
            ("num_val_prompts", self.num_val_prompts, 0),
            ("prompt_tokens", self.prompt_tokens, 1),
            ("max_new_tokens", self.max_new_tokens, 1),
        ):
            if value is not None and value < minimum:
                raise ValueError(f"{name} must be >= {minimum}, got {value}")
        if not self.sampling_configs:
            raise ValueError("sampling_configs must name at least one configuration, got none")
        if not (self.prompts or self.num_val_prompts):
            raise ValueError("num_val_prompts must be >= 1 if prompts is empty, got 0")

    def scale_to(self, seq_len: int) -> "GenerationEvalConfig":
        """Return the config with lengths for sequences of `seq_len` tokens."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens or min(32, max(1, seq_len // 8)),
            max_new_tokens=self.max_new_tokens or min(64, max(1, seq_len // 4)),
        )

    def lengths(self, seq_len: int) -> tuple[int, int]:
        """Return the tokens of a validation prompt and of a continuation."""
        scaled = self.scale_to(seq_len)
        assert scaled.prompt_tokens is not None and scaled.max_new_tokens is not None
        return scaled.prompt_tokens, scaled.max_new_tokens


@dataclass(frozen=True)
class GeneratedSample:
    """Hold one continuation.

    `record_id` is the validation document of the prompt, "" for a configured prompt.
    """

    sampling: str
    prompt: str
    text: str
    record_id: str
    has_eos: bool  # the last token is `eos`
    num_tokens: int
    seq_rep_4: float  # fraction of 4-grams that occur earlier in the same continuation
    train_overlap: int  # tokens of its longest part that occurs in the training split


SAMPLE_SCHEMA = pa.schema(
    [
        ("sampling", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("record_id", pa.string()),
        ("has_eos", pa.bool_()),
        ("num_tokens", pa.int64()),
        ("seq_rep_4", pa.float64()),
        ("train_overlap", pa.int64()),
    ]
)


def write_samples(path: Path, samples: Sequence[GeneratedSample]) -> None:
    """Write `samples` to one Parquet file, which is empty if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(sample) for sample in samples], schema=SAMPLE_SCHEMA), path)


@dataclass(frozen=True)
class GenerationPrompt:
    """Hold a prompt.

    `record_id` is the validation document it comes from, "" for a configured prompt.
    """

    ids: list[int]
    record_id: str
    reference_ids: list[int]  # the continuation in the validation document


def generation_probe(config: GenerationEvalConfig, collected: list[GeneratedSample]) -> Probe:
    """Return the probe that continues every prompt with every sampling configuration.

    Samples are also appended to `collected`.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        prompts = [*_configured_prompts(context, config), *_val_prompts(context, config)]
        _, max_new_tokens = config.lengths(context.max_seq_len)
        train_index = SuffixArray.build(context.tokens.train.ids, max_new_tokens)
        samples: list[GeneratedSample] = []
        with progress_bar("generate", "continuations", len(prompts) * len(config.sampling_configs)) as bar:
            for name, sampling in config.sampling_configs.items():
                torch_random = torch.Generator().manual_seed(rng.derive_seed(context.seed, "generation", name))
                continuations = generate(context, [prompt.ids for prompt in prompts], sampling, max_new_tokens, torch_random)
                batch_samples = [
                    _make_sample(context, name, p, continuation, train_index)
                    for p, continuation in zip(prompts, continuations, strict=True)
                ]
                _record_samples(metrics, f"{name}.", continuations, batch_samples)
                samples += batch_samples
                bar.update(len(prompts))
        references = [(p, p.reference_ids) for p in prompts if p.reference_ids]
        if references:
            batch_samples = [_make_sample(context, "validation text", p, reference, train_index) for p, reference in references]
            _record_samples(metrics, "val_text.", [reference for _, reference in references], batch_samples)
        collected.extend(samples)
        metrics.tables.append(_sample_table(samples))

    return Probe(probe, frozenset({"next_token_logits", "generation_prompts"}))


def has_prompts(config: GenerationEvalConfig, context: EvalContext) -> bool:
    """Return whether there is a prompt to continue."""
    return bool(config.prompts or _val_prompts(context, config))


def _configured_prompts(context: EvalContext, config: GenerationEvalConfig) -> list[GenerationPrompt]:
    return [GenerationPrompt(context.tokenizer.encode_prompt(text), "", []) for text in config.prompts]


def _val_prompts(context: EvalContext, config: GenerationEvalConfig) -> list[GenerationPrompt]:
    """Draw beginnings of validation documents that are longer than a prompt."""
    split = context.tokens.val
    prompt_tokens, max_new_tokens = config.lengths(context.max_seq_len)
    long_documents = np.flatnonzero(np.diff(split.doc_offsets) > prompt_tokens + 1)
    document_ids = rng.make_rng(context.seed, "prompts").permutation(long_documents)[: config.num_val_prompts]
    prompts = []
    for n in document_ids:
        ids = split.ids[split.doc_offsets[n] : split.doc_offsets[n + 1]][: prompt_tokens + max_new_tokens].tolist()
        prompts.append(GenerationPrompt(ids[:prompt_tokens], split.record_ids[n], ids[prompt_tokens:]))
    return prompts


def _make_sample(
    context: EvalContext, name: str, prompt: GenerationPrompt, continuation: Sequence[int], train_index: SuffixArray
) -> GeneratedSample:
    return GeneratedSample(
        sampling=name,
        prompt=context.tokenizer.describe(prompt.ids),
        text=context.tokenizer.describe(continuation),
        record_id=prompt.record_id,
        has_eos=bool(continuation) and continuation[-1] == context.tokens.special_tokens.get("eos"),
        num_tokens=len(continuation),
        seq_rep_4=ngram_repetition(continuation),
        train_overlap=train_index.longest_match(continuation),
    )


def ngram_repetition(token_ids: Sequence[int]) -> float:
    """Return the fraction of 4-grams that occur earlier in the sequence.

    It is 0 for fewer than four tokens.
    """
    grams = list(zip(*(token_ids[n:] for n in range(REPEAT_NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Return distinct n-grams relative to all n-grams of all sequences.

    Li et al. 2016, arXiv 1510.03055; 0 without any n-gram.
    """
    grams = [gram for sequence in sequences for gram in zip(*(sequence[k:] for k in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _record_samples(
    metrics: MetricRecorder, prefix: str, continuations: Sequence[Sequence[int]], samples: Sequence[GeneratedSample]
) -> None:
    data_label = "validation texts" if prefix == "val_text." else f"continuations sampled with {prefix.removesuffix('.')!r}"
    metrics.add_count(f"{prefix}num_samples", len(samples), "texts", f"Number of {data_label}")
    for n in (1, 2):
        metrics.add_measurement(
            f"{prefix}distinct_{n}",
            distinct_n(continuations, n),
            "fraction",
            f"Distinct {n}-grams of tokens relative to all, in {data_label}",
        )
    description = f"Mean fraction of {REPEAT_NGRAM}-grams that occur earlier in the same text, in {data_label}"
    metrics.add_measurement(f"{prefix}seq_rep_4", float(np.mean([s.seq_rep_4 for s in samples])), "fraction", description)
    description = f"Longest token sequence of {data_label} that occurs in the training split"
    metrics.add_measurement(f"{prefix}longest_train_overlap", max(s.train_overlap for s in samples), "tokens", description)
    metrics.add_measurement(
        f"{prefix}mean_train_overlap",
        float(np.mean([s.train_overlap for s in samples])),
        "tokens",
        f"Mean over {data_label} of the longest token sequence that occurs in the training split",
    )
    eos_rate, mean_length = float(np.mean([s.has_eos for s in samples])), float(np.mean([s.num_tokens for s in samples]))
    metrics.add_measurement(f"{prefix}eos_rate", eos_rate, "fraction", f"Fraction of {data_label} that end with `eos`")
    metrics.add_measurement(f"{prefix}mean_tokens", mean_length, "tokens", f"Mean length of {data_label}")


def _sample_table(samples: Sequence[GeneratedSample]) -> AuditTable:
    columns = ("sampling", "prompt", "continuation", "tokens", "seq-rep-4", "train overlap")
    rows = [(s.sampling, s.prompt, s.text, s.num_tokens, round(s.seq_rep_4, 3), s.train_overlap) for s in samples]
    return AuditTable("samples", "Every continuation", columns, rows)
