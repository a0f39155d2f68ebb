"""Repeated blocks against a search that compares every block with every other one."""

import random
import re

import pytest

from provenlm.core import config
from provenlm.core.interfaces import ParagraphDedupSpec
from provenlm.core.records import Record
from provenlm.dedup import paragraph_dedup
from provenlm.domains.text.dedupe import spec

SIZE = 12


def paragraph_spec(within_document: str = "remove", across_documents: str = "remove", min_documents: int = 2) -> ParagraphDedupSpec:
    section = {"bytes": SIZE, "records": min_documents, "inside": within_document, "across": across_documents}
    spec = spec.SPEC.paragraph_dedup(
        config.parse_config(spec.TextDedupeConfig, {"near": 0.7, "words": 5, "characters": 5, "blocks": section}, "x")
    )
    assert spec is not None
    return spec


def corpus(seed: int) -> list[Record]:
    """Records of paragraphs, many of them planted more than once, spaced differently each time."""
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
    """(row, block, row of the original, kind) of every block that stood before, by comparing all."""
    all_paragraphs = [(row, part) for row, record in enumerate(records) for part in paragraphs(record)]
    repeats = []
    for index, (row, part) in enumerate(all_paragraphs):
        earlier_rows = [other_row for other_row, same in all_paragraphs[:index] if same == part]
        if earlier_rows:
            repeats.append((row, part, earlier_rows[0], "inside" if earlier_rows[0] == row else "across"))
    return repeats


@pytest.mark.parametrize("seed", range(6))
def test_what_repeats_is_what_comparing_all_blocks_finds(seed):
    records, spec = corpus(seed), paragraph_spec()
    index = paragraph_dedup.index_paragraphs(enumerate(records), spec)
    repeats = [
        (span.row, " ".join(records[span.row].content[span.start : span.end].decode().split()), span.original_row, span.kind)
        for row, record in enumerate(records)
        for span in paragraph_dedup.find_repeats(row, record, index, spec)
    ]
    assert repeats == brute(records)
    assert index.num_blocks == sum(len(paragraphs(record)) for record in records)
    assert len(repeats) > 20


def test_nothing_that_was_removed_stands_nowhere_and_nothing_stands_twice():
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


def test_only_what_repeats_inside_is_removed_by_choice():
    content = b"first of all\n\nsecond of all\n\nfirst  of\nall\n\nthe end of it"
    records, spec = (
        [Record.from_content(content, "text/plain", "a"), Record.from_content(b"second of all", "text/plain", "b")],
        paragraph_spec(across_documents="keep"),
    )
    index = paragraph_dedup.index_paragraphs(enumerate(records), spec)
    repeats = [list(paragraph_dedup.find_repeats(row, record, index, spec)) for row, record in enumerate(records)]
    assert paragraph_dedup.remove_spans(content, repeats[0]) == b"first of all\n\nsecond of all\n\nthe end of it"
    assert paragraph_dedup.remove_spans(records[1].content, repeats[1]) == b"second of all"
    assert [span.kind for span in repeats[1]] == ["across"]


def test_the_indentation_of_what_follows_a_removed_block_stays():
    header = b"# licence of it all"
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
