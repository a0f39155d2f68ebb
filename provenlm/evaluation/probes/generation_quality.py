"""A net, prompts and samplings in, continuations and figures on how varied, repetitive and copied they are out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from provenlm.core import rng
from provenlm.core.audit import Recorder, Table
from provenlm.core.progress import progress
from provenlm.evaluation.generate import generate
from provenlm.evaluation.ngram_overlap import Suffixes
from provenlm.evaluation.probe import Probe, Subject
from provenlm.models.generation.sampling import Sampling

REPEATS = 4  # n of the n-grams that a text may say twice (Welleck et al. 2020, arXiv 1908.04319: seq-rep-4)


@dataclass(frozen=True)
class Settings:
    """The `generation` section of validate, typed."""

    prompts: tuple[str, ...]  # begun by us
    heldout_prompts: int  # begun by a held-out document each
    prompt_tokens: int  # how much of that document is given
    tokens: int  # length of a continuation
    samplings: dict[str, Sampling]

    def __post_init__(self) -> None:
        if self.heldout_prompts < 0 or self.prompt_tokens < 1 or self.tokens < 1:
            raise ValueError("heldout_prompts must be at least 0, prompt_tokens and tokens at least 1")
        if not self.samplings or not (self.prompts or self.heldout_prompts):
            raise ValueError("needs at least one of samplings, and of prompts or heldout_prompts")


@dataclass(frozen=True)
class Sample:
    """One continuation. `record` is the held-out document whose beginning is the prompt, "" for a prompt of our own."""

    sampling: str
    prompt: str
    text: str
    record: str
    ended: bool  # with the codec's `eos`
    tokens: int
    repeated: float  # share of 4-grams that stood before in the same continuation
    copied: int  # tokens of its longest stretch that stands verbatim in the training split


SCHEMA = pa.schema(
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


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write `samples` as one Parquet file, empty if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(sample) for sample in samples], schema=SCHEMA), path)


@dataclass(frozen=True)
class Prompt:
    """What a continuation begins with. `record` is the held-out document that it is taken from, "" for one of our own."""

    ids: list[int]
    record: str
    truth: list[int]  # how the held-out document goes on


def generation(settings: Settings, collected: list[Sample]) -> Probe:
    """Continue every prompt by every sampling; the samples are appended to `collected` too."""

    def probe(subject: Subject, figures: Recorder) -> None:
        prompts = [*_own(subject, settings), *_held_out(subject, settings)]
        training = Suffixes.of(subject.tokens.train.ids, settings.tokens)
        found: list[Sample] = []
        with progress("generate", "continuations", len(prompts) * len(settings.samplings)) as bar:
            for name, sampling in settings.samplings.items():
                torch_random = torch.Generator().manual_seed(rng.seed_of(subject.seed, "generation", name))
                rows = generate(subject, [prompt.ids for prompt in prompts], sampling, settings.tokens, torch_random)
                made = [_sample(subject, name, p, row, training) for p, row in zip(prompts, rows, strict=True)]
                _figures(figures, f"{name}.", rows, made)
                found += made
                bar.advance(len(prompts))
        truths = [(p, p.truth) for p in prompts if p.truth]
        if truths:
            made = [_sample(subject, "held-out text", p, truth, training) for p, truth in truths]
            _figures(figures, "heldout.", [truth for _, truth in truths], made)
        collected.extend(found)
        figures.tables.append(_table(found))

    return probe


def _own(subject: Subject, settings: Settings) -> list[Prompt]:
    return [Prompt(subject.codec.prompt(text), "", []) for text in settings.prompts]


def _held_out(subject: Subject, settings: Settings) -> list[Prompt]:
    """Beginnings of held-out documents that are long enough to go on, drawn without replacement."""
    split = subject.tokens.val
    long = np.flatnonzero(np.diff(split.starts) > settings.prompt_tokens + 1)
    chosen = rng.generator(subject.seed, "prompts").permutation(long)[: settings.heldout_prompts]
    prompts = []
    for n in chosen:
        ids = split.ids[split.starts[n] : split.starts[n + 1]][: settings.prompt_tokens + settings.tokens].tolist()
        prompts.append(Prompt(ids[: settings.prompt_tokens], split.record_ids[n], ids[settings.prompt_tokens :]))
    return prompts


def _sample(subject: Subject, name: str, prompt: Prompt, row: Sequence[int], training: Suffixes) -> Sample:
    return Sample(
        sampling=name,
        prompt=_shown(subject, prompt.ids),
        text=_shown(subject, row),
        record=prompt.record,
        ended=bool(row) and row[-1] == subject.tokens.special.get("eos"),
        tokens=len(row),
        repeated=repeated(row),
        copied=training.longest_shared(row),
    )


def _shown(subject: Subject, ids: Sequence[int]) -> str:
    return subject.codec.decode(ids).decode("utf-8", "replace")


def repeated(row: Sequence[int]) -> float:
    """Share of the 4-grams of `row` that stood in it before; 0 for a shorter row."""
    grams = list(zip(*(row[n:] for n in range(REPEATS)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(rows: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all rows (Li et al. 2016, arXiv 1510.03055); 0 without any."""
    grams = [gram for row in rows for gram in zip(*(row[k:] for k in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _figures(figures: Recorder, prefix: str, rows: Sequence[Sequence[int]], made: Sequence[Sample]) -> None:
    figures.counted(f"{prefix}texts", len(made), "texts", "continuations that were looked at")
    for n in (1, 2):
        figures.measured(f"{prefix}distinct_{n}", distinct(rows, n), "share", f"different {n}-grams of tokens over all of them")
    meaning = f"mean share of {REPEATS}-grams that stood before in the same continuation"
    figures.measured(f"{prefix}repeated", float(np.mean([s.repeated for s in made])), "share", meaning)
    meaning = "longest stretch of a continuation that stands verbatim in the training split"
    figures.measured(f"{prefix}copied.longest", max(s.copied for s in made), "tokens", meaning)
    figures.measured(
        f"{prefix}copied.mean", float(np.mean([s.copied for s in made])), "tokens", f"mean over continuations of the {meaning}"
    )
    ended, length = float(np.mean([s.ended for s in made])), float(np.mean([s.tokens for s in made]))
    figures.measured(f"{prefix}ended", ended, "share", "continuations that end with the codec's end of document")
    figures.measured(f"{prefix}tokens", length, "tokens", "mean length of a continuation")


def _table(samples: Sequence[Sample]) -> Table:
    columns = ("sampling", "prompt", "continuation", "tokens", "repeated", "copied tokens")
    rows = [(s.sampling, s.prompt, s.text, s.tokens, round(s.repeated, 3), s.copied) for s in samples]
    return Table("samples", "every continuation", columns, rows)
