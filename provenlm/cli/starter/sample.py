"""Read a sample of sources, filter and tokenize it, and estimate the whole corpus."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from provenlm.cli.starter import time_budget
from provenlm.cli.starter.sources import DetectedSource
from provenlm.core import interfaces, registry
from provenlm.core.config import parse_config
from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.progress import progress_bar
from provenlm.core.records import Record
from provenlm.data.token_dataset import TokenDataset, TokenizedDocument, load_token_dataset, write_token_dataset
from provenlm.domains.grids.content.puzzle import parse_puzzle
from provenlm.filtering import scoring

SAMPLE_SECONDS = 12.0  # of reading, for all sources together
SAMPLE_BYTES = 24_000_000  # of content that is read
ENCODE_BYTES = 3_000_000  # of content that is filtered and tokenized
MIN_TEXT_BYTES = 20_000  # of clean text: below, no vocabulary of 512 tokens can be trained and no text be held out
PROMPT_CHARS = 24


@dataclass(frozen=True)
class CorpusSample:
    """Hold what a sample says about a corpus.

    `num_bytes` and `num_tokens` estimate the whole corpus after the filter, before duplicates are removed; `is_complete`: the sources
    were read to their end, so that nothing was extrapolated. `kept_fraction` is the part of the bytes that the filter keeps.
    """

    tokens: TokenDataset
    tokenize: Mapping[str, Any]  # entry of corpora.NAME.tokenize
    tokenizer: interfaces.Tokenizer
    num_records: int
    num_bytes: float
    num_tokens: float
    kept_fraction: float
    is_complete: bool
    longest_sequence: int  # tokens of the longest document; cells of the largest pair of grids
    prompts: Sequence[str]


@dataclass
class _Reading:
    """Hold the records that were read, and whether that was all."""

    records: list[Record]
    total_bytes: float = 0.0
    is_complete: bool = True


def sample_corpus(sources: Sequence[DetectedSource], scrape: Mapping[str, Any], folder: Path) -> CorpusSample:
    """Read a sample into `folder`, filter and tokenize it.

    `scrape` is the entry of the corpus. Raises DataError if there is too little to train on.
    """
    domain = sources[0].domain
    reading = _read_sources(domain, sources, scrape, folder)
    if not reading.records:
        raise DataError(f"{_names(sources)}: no record could be read; docs/how-to/sources.md lists what can be")
    clean, kept_fraction, drop_reasons = _filter(domain, _thin(reading.records, ENCODE_BYTES))
    num_bytes = reading.total_bytes * kept_fraction
    if not clean:
        raise DataError(f"{_names(sources)}: the filter drops every record of the sample: {drop_reasons}")
    if domain == "text" and num_bytes < MIN_TEXT_BYTES:
        raise DataError(
            f"{_names(sources)}: {num_bytes:,.0f} bytes of text after the filter (of {reading.total_bytes:,.0f}; dropped: {drop_reasons}); a language "
            f"model needs at least {MIN_TEXT_BYTES:,}, and some hundred thousand to say more than its training text"
        )
    wanted = {"vocab_size": time_budget.choose_vocab_size(num_bytes)} if domain == "text" else {}
    tokenizer, tokenize = _train_tokenizer(domain, wanted, clean)
    documents = [
        TokenizedDocument(record.id, record.id, len(record.content), ids)
        for record, ids in zip(clean, tokenizer.encode(clean), strict=True)
    ]
    write_token_dataset(folder, documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.0, tokenizer.token_classes)
    tokens = load_token_dataset(folder)
    sample_bytes = sum(len(record.content) for record in clean)
    scale = num_bytes / sample_bytes
    return CorpusSample(
        tokens,
        tokenize,
        tokenizer,
        round(len(clean) * scale),
        num_bytes,
        len(tokens.train.ids) * scale,
        kept_fraction,
        reading.is_complete,
        max(map(_pair_cells, clean)) if domain == "grids" else max(len(document.ids) for document in documents),
        _choose_prompts(clean) if domain == "text" else (),
    )


def tokenized_corpus(domain: str, folder: Path, name: str) -> CorpusSample:
    """Describe a corpus that is tokenized already. Raises DataError if it is not."""
    if not folder.is_dir():
        raise DataError(f"corpora.{name}: must be tokenized first: `dvc repro tokenize@{name}`, or `provenlm new` for new sources")
    tokens = load_token_dataset(folder)
    tokenizer = registry.load_domain(domain, "tokenize", interfaces.TokenizeSpec).load(folder / "tokenizer")
    train = tokens.train
    lengths = np.diff(train.doc_offsets)
    return CorpusSample(
        tokens,
        {},
        tokenizer,
        len(train.record_ids),
        float(train.doc_bytes.sum()),
        float(len(train.ids)),
        1.0,
        True,
        int(lengths.max()),
        (),
    )


def _read_sources(domain: str, sources: Sequence[DetectedSource], scrape: Mapping[str, Any], folder: Path) -> _Reading:
    """Read each source for its share of the time and bytes."""
    spec = registry.load_domain(domain, "scrape", interfaces.ScrapeSpec)
    result = _Reading([])
    for number, source in enumerate(sources):
        section, fraction = dict(source.section), 1.0
        if section["kind"] == "folder" and source.num_bytes and source.num_bytes * len(sources) > SAMPLE_BYTES:
            section["sample_frac"] = fraction = SAMPLE_BYTES / source.num_bytes / len(sources)
        config: Any = parse_config(spec.config_type, {**scrape, "sources": [section]}, "new: scrape")
        state = folder / f"state-{number}"
        state.mkdir(parents=True)
        records, is_complete = _read_one(spec, config, state, len(sources))
        num_bytes = sum(len(record.content) for record in records)
        result.records += records
        result.is_complete &= is_complete and fraction == 1.0
        if is_complete or source.num_bytes is None:
            result.total_bytes += num_bytes / fraction
        else:  # a table or archive that was not read to its end: as much text as its file has bytes, or four times that if compressed
            is_packed = str(source.section).rstrip("]}'").endswith((".gz", ".zst", ".xz", ".bz2", ".parquet"))
            result.total_bytes += max(num_bytes, source.num_bytes * (4 if is_packed else 1))
    return result


def _read_one(spec: interfaces.ScrapeSpec, config: Any, state: Path, num_sources: int) -> tuple[list[Record], bool]:
    """Read records until their part of the time or bytes is used up.

    Returns them and whether that was all.
    """
    records: list[Record] = []
    num_bytes, end = 0, time.monotonic() + SAMPLE_SECONDS / num_sources
    with progress_bar("look at the source", "records") as bar, closing(_closable(spec.fetch(config, state, bar))) as fetches:
        for fetch in fetches:
            if fetch.record is not None:
                records.append(fetch.record)
                num_bytes += len(fetch.record.content)
            if records and (num_bytes > SAMPLE_BYTES / num_sources or time.monotonic() > end):
                return records, False
    return records, True


def _closable(fetches: Iterator[Any]) -> Any:
    """Return the outcomes as a generator, whose close() ends the crawl behind it."""
    yield from fetches


def _thin(records: Sequence[Record], max_bytes: int) -> list[Record]:
    """Return evenly spaced records of about `max_bytes` in all."""
    step = max(1, round(sum(len(record.content) for record in records) / max_bytes))
    return list(islice(records, 0, None, step))


def _filter(domain: str, records: Sequence[Record]) -> tuple[list[Record], float, str]:
    """Filter records with the default settings.

    Returns the clean ones, their part of the bytes, and why records were dropped.
    """
    spec = registry.load_domain(domain, "filter", interfaces.FilterSpec)
    config: Any = parse_config(spec.config_type, {}, "new: filter")
    decisions = scoring.make_filter_step(spec, config).apply(records)
    clean = [decision.record for decision in decisions if decision.drop_reason is None]
    reasons = Counter(decision.drop_reason for decision in decisions if decision.drop_reason is not None)
    num_bytes = sum(len(record.content) for record in records)
    kept_fraction = sum(len(record.content) for record in clean) / max(1, num_bytes)
    return clean, kept_fraction, ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3)) or "none"


def _train_tokenizer(
    domain: str, section: Mapping[str, Any], records: Sequence[Record]
) -> tuple[interfaces.Tokenizer, Mapping[str, Any]]:
    """Train a tokenizer.

    The vocabulary is halved while the text has too few pieces for it.
    """
    spec = registry.load_domain(domain, "tokenize", interfaces.TokenizeSpec)
    while True:
        config: Any = parse_config(spec.config_type, section, "new: tokenize")
        try:
            return spec.train(config, lambda: records), section
        except ProvenlmError:
            if section.get("vocab_size", 0) <= 512:
                raise
            section = {**section, "vocab_size": section["vocab_size"] // 2}


def _choose_prompts(records: Sequence[Record]) -> list[str]:
    """Return the first words of three records, as prompts for samples."""
    prompts: dict[str, None] = {}
    for record in records[:: max(1, len(records) // 12)]:
        line = next((line for line in record.text.splitlines() if len(line) >= PROMPT_CHARS and line.isprintable()), "")
        head = line[:PROMPT_CHARS].rpartition(" ")[0] or line[:PROMPT_CHARS]
        if head.strip():
            prompts[head] = None
    return list(prompts)[:3]


def _pair_cells(record: Record) -> int:
    """Return the cells of the largest pair of an ARC task."""
    pairs = parse_puzzle(record.content).pairs
    return max(int(pair.input.size + (pair.input.size if pair.output is None else pair.output.size)) for pair in pairs)


def _names(sources: Sequence[DetectedSource]) -> str:
    """Name the sources in a message."""
    return ", ".join(str(source.section.get("path") or source.section.get("files") or source.section) for source in sources)


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """Open a folder for the sample, which is removed with it."""
    return tempfile.TemporaryDirectory(prefix="provenlm-new-")
