"""Compare repeated paragraphs with those of comparing every paragraph with every other one."""

import random
import re

import pytest

from provenlm.core import config
from provenlm.core.interfaces import ParagraphDedupSpec
from provenlm.core.records import Record
from provenlm.dedup import paragraph_dedup
from provenlm.domains.text.dedupe.spec import SPEC, TextDedupeConfig

SIZE = 12


def paragraph_spec(within_document: str = "remove", across_documents: str = "remove", min_documents: int = 2) -> ParagraphDedupSpec:
    section = {
        "min_bytes": SIZE,
        "min_documents": min_documents,
        "within_document": within_document,
        "across_documents": across_documents,
    }
    spec = SPEC.paragraph_dedup(config.parse_config(TextDedupeConfig, {"paragraph_dedup": section}, "x"))
    assert spec is not None
    return spec


def corpus(seed: int) -> list[Record]:
    """Build records of paragraphs, many of them repeated with other whitespace."""
    random_ = random.Random(seed)
    pool = [" ".join(random_.choices(["alpha", "beta", "gamma", "de"], k=random_.randrange(1, 6))) for _ in range(30)]
    gaps = ["\n\n", "\n \t\n", "\n\n\n  "]
    texts = []
    for _ in range(25):
        parts = [re.sub(" ", random_.choice([" ", "\n", "  "]), random_.choice(pool)) for _ in range(random_.randrange(1, 7))]
        texts.append("".join(part + random_.choice(gaps) for part in parts))
    return [Record.from_content(text.encode(), "text/plain", f"s/{i}") for i, text in enumerate(texts)]


def paragraphs(record: Record) -> list[str]:
    parts = [" ".join(part.split()) for part in re.split(r"\n[ \t\r]*\n", record.text)]
    raw_parts = [part.strip() for part in re.split(r"\n[ \t\r]*\n", record.text)]
    return [part for part, raw in zip(parts, raw_parts, strict=True) if len(raw) >= SIZE]


def brute(records: list[Record]) -> list[tuple[int, str, int, str]]:
    """Return (row, paragraph, row of the first occurrence, kind) of every repeat by comparing all."""
    all_paragraphs = [(row, part) for row, record in enumerate(records) for part in paragraphs(record)]
    repeats = []
    for index, (row, part) in enumerate(all_paragraphs):
        earlier_rows = [other_row for other_row, same in all_paragraphs[:index] if same == part]
        if earlier_rows:
            repeats.append((row, part, earlier_rows[0], "within_document" if earlier_rows[0] == row else "across_documents"))
    return repeats


@pytest.mark.parametrize("seed", range(6))
def test_repeats_equal_those_of_comparing_all_paragraphs(seed):
    records, spec = corpus(seed), paragraph_spec()
    index = paragraph_dedup.index_paragraphs(enumerate(records), spec)
    repeats = [
        (span.row, " ".join(records[span.row].content[span.start : span.end].decode().split()), span.original_row, span.kind)
        for row, record in enumerate(records)
        for span in paragraph_dedup.find_repeats(row, record, index, spec)
    ]
    assert repeats == brute(records)
    assert index.num_paragraphs == sum(len(paragraphs(record)) for record in records)
    assert len(repeats) > 20


def test_after_removal_every_paragraph_occurs_exactly_once():
    records, spec = corpus(9), paragraph_spec()
    index = paragraph_dedup.index_paragraphs(enumerate(records), spec)
    deduplicated = [
        Record.from_content(
            paragraph_dedup.remove_spans(record.content, list(paragraph_dedup.find_repeats(row, record, index, spec))),
            "text/plain",
            record.source,
        )
        for row, record in enumerate(records)
    ]
    assert brute(deduplicated) == []
    assert {part for record in deduplicated for part in paragraphs(record)} == {
        part for record in records for part in paragraphs(record)
    }


def test_across_documents_keep_removes_repeats_within_a_record_only():
    content = b"first of all\n\nsecond of all\n\nfirst  of\nall\n\nthe end of it"
    records, spec = (
        [Record.from_content(content, "text/plain", "a"), Record.from_content(b"second of all", "text/plain", "b")],
        paragraph_spec(across_documents="keep"),
    )
    index = paragraph_dedup.index_paragraphs(enumerate(records), spec)
    repeats = [list(paragraph_dedup.find_repeats(row, record, index, spec)) for row, record in enumerate(records)]
    assert paragraph_dedup.remove_spans(content, repeats[0]) == b"first of all\n\nsecond of all\n\nthe end of it"
    assert paragraph_dedup.remove_spans(records[1].content, repeats[1]) == b"second of all"
    assert [span.kind for span in repeats[1]] == ["across_documents"]


def test_the_indentation_after_a_removed_paragraph_is_kept():
    header = b"# license of it all"
    content = header + b"\n\n\n    indented(code)\n"
    records, spec = (
        [Record.from_content(header, "text/plain", "a"), Record.from_content(content, "text/plain", "b")],
        paragraph_spec(),
    )
    index = paragraph_dedup.index_paragraphs(enumerate(records), spec)
    assert (
        paragraph_dedup.remove_spans(content, list(paragraph_dedup.find_repeats(1, records[1], index, spec)))
        == b"    indented(code)\n"
    )
