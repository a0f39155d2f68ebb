"""A net, prompts and samplings in, continuations and figures on how varied, repetitive and copied they are out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from provenlm.models.generation.sampling import SamplingConfig

REPEAT_NGRAM = 4  # n of the n-grams that a text may say twice (Welleck et al. 2020, arXiv 1908.04319: seq-rep-4)


@dataclass(frozen=True)
class GenerationEvalConfig:
    """The `generation` section of validate, typed."""

    prompts: tuple[str, ...]  # begun by us
    num_val_prompts: int  # begun by a held-out document each
    prompt_tokens: int  # how much of that document is given
    max_new_tokens: int  # length of a continuation
    sampling_configs: dict[str, SamplingConfig]

    def __post_init__(self) -> None:
        if self.num_val_prompts < 0 or self.prompt_tokens < 1 or self.max_new_tokens < 1:
            raise ValueError("heldout_prompts must be at least 0, prompt_tokens and tokens at least 1")
        if not self.sampling_configs or not (self.prompts or self.num_val_prompts):
            raise ValueError("needs at least one of samplings, and of prompts or heldout_prompts")


@dataclass(frozen=True)
class GeneratedSample:
    """One continuation. `record` is the held-out document whose beginning is the prompt, "" for a prompt of our own."""

    sampling: str
    prompt: str
    text: str
    record_id: str
    has_eos: bool  # with the codec's `eos`
    num_tokens: int
    seq_rep_4: float  # share of 4-grams that stood before in the same continuation
    train_overlap: int  # tokens of its longest stretch that stands verbatim in the training split


SAMPLE_SCHEMA = pa.schema(
    [
        ("sampling", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("record", pa.string()),
        ("ended", pa.bool_()),
        ("tokens", pa.int64()),
        ("repeated", pa.float64()),
        ("copied", pa.int64()),
    ]
)


def write_samples(path: Path, samples: Sequence[GeneratedSample]) -> None:
    """Write `samples` as one Parquet file, empty if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(sample) for sample in samples], schema=SAMPLE_SCHEMA), path)


@dataclass(frozen=True)
class GenerationPrompt:
    """What a continuation begins with. `record` is the held-out document that it is taken from, "" for one of our own."""

    ids: list[int]
    record_id: str
    reference_ids: list[int]  # how the held-out document goes on


def generation_probe(config: GenerationEvalConfig, collected: list[GeneratedSample]) -> Probe:
    """Continue every prompt by every sampling; the samples are appended to `collected` too."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        prompts = [*_configured_prompts(context, config), *_val_prompts(context, config)]
        train_index = SuffixArray.build(context.tokens.train.ids, config.max_new_tokens)
        samples: list[GeneratedSample] = []
        with progress_bar("generate", "continuations", len(prompts) * len(config.sampling_configs)) as bar:
            for name, sampling in config.sampling_configs.items():
                torch_random = torch.Generator().manual_seed(rng.derive_seed(context.seed, "generation", name))
                continuations = generate(context, [prompt.ids for prompt in prompts], sampling, config.max_new_tokens, torch_random)
                batch_samples = [
                    _make_sample(context, name, p, continuation, train_index)
                    for p, continuation in zip(prompts, continuations, strict=True)
                ]
                _record_samples(metrics, f"{name}.", continuations, batch_samples)
                samples += batch_samples
                bar.update(len(prompts))
        references = [(p, p.reference_ids) for p in prompts if p.reference_ids]
        if references:
            batch_samples = [_make_sample(context, "held-out text", p, reference, train_index) for p, reference in references]
            _record_samples(metrics, "heldout.", [reference for _, reference in references], batch_samples)
        collected.extend(samples)
        metrics.tables.append(_sample_table(samples))

    return probe


def _configured_prompts(context: EvalContext, config: GenerationEvalConfig) -> list[GenerationPrompt]:
    return [GenerationPrompt(context.tokenizer.encode_prompt(text), "", []) for text in config.prompts]


def _val_prompts(context: EvalContext, config: GenerationEvalConfig) -> list[GenerationPrompt]:
    """Beginnings of held-out documents that are long enough to go on, drawn without replacement."""
    split = context.tokens.val
    long_documents = np.flatnonzero(np.diff(split.doc_offsets) > config.prompt_tokens + 1)
    document_ids = rng.make_rng(context.seed, "prompts").permutation(long_documents)[: config.num_val_prompts]
    prompts = []
    for n in document_ids:
        ids = split.ids[split.doc_offsets[n] : split.doc_offsets[n + 1]][: config.prompt_tokens + config.max_new_tokens].tolist()
        prompts.append(GenerationPrompt(ids[: config.prompt_tokens], split.record_ids[n], ids[config.prompt_tokens :]))
    return prompts


def _make_sample(
    context: EvalContext, name: str, prompt: GenerationPrompt, continuation: Sequence[int], train_index: SuffixArray
) -> GeneratedSample:
    return GeneratedSample(
        sampling=name,
        prompt=_decode(context, prompt.ids),
        text=_decode(context, continuation),
        record_id=prompt.record_id,
        has_eos=bool(continuation) and continuation[-1] == context.tokens.special_tokens.get("eos"),
        num_tokens=len(continuation),
        seq_rep_4=ngram_repetition(continuation),
        train_overlap=train_index.longest_match(continuation),
    )


def _decode(context: EvalContext, ids: Sequence[int]) -> str:
    return context.tokenizer.decode(ids).decode("utf-8", "replace")


def ngram_repetition(token_ids: Sequence[int]) -> float:
    """Share of the 4-grams of `row` that stood in it before; 0 for a shorter row."""
    grams = list(zip(*(token_ids[n:] for n in range(REPEAT_NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all rows (Li et al. 2016, arXiv 1510.03055); 0 without any."""
    grams = [gram for sequence in sequences for gram in zip(*(sequence[k:] for k in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _record_samples(
    metrics: MetricRecorder, prefix: str, continuations: Sequence[Sequence[int]], samples: Sequence[GeneratedSample]
) -> None:
    metrics.add_count(f"{prefix}texts", len(samples), "texts", "continuations that were looked at")
    for n in (1, 2):
        metrics.add_measurement(
            f"{prefix}distinct_{n}", distinct_n(continuations, n), "share", f"different {n}-grams of tokens over all of them"
        )
    description = f"mean share of {REPEAT_NGRAM}-grams that stood before in the same continuation"
    metrics.add_measurement(f"{prefix}repeated", float(np.mean([s.seq_rep_4 for s in samples])), "share", description)
    description = "longest stretch of a continuation that stands verbatim in the training split"
    metrics.add_measurement(f"{prefix}copied.longest", max(s.train_overlap for s in samples), "tokens", description)
    metrics.add_measurement(
        f"{prefix}copied.mean",
        float(np.mean([s.train_overlap for s in samples])),
        "tokens",
        f"mean over continuations of the {description}",
    )
    eos_rate, mean_length = float(np.mean([s.has_eos for s in samples])), float(np.mean([s.num_tokens for s in samples]))
    metrics.add_measurement(f"{prefix}ended", eos_rate, "share", "continuations that end with the codec's end of document")
    metrics.add_measurement(f"{prefix}tokens", mean_length, "tokens", "mean length of a continuation")


def _sample_table(samples: Sequence[GeneratedSample]) -> AuditTable:
    columns = ("sampling", "prompt", "continuation", "tokens", "repeated", "copied tokens")
    rows = [(s.sampling, s.prompt, s.text, s.num_tokens, round(s.seq_rep_4, 3), s.train_overlap) for s in samples]
    return AuditTable("samples", "every continuation", columns, rows)
