"""Repeated blocks against a search that compares every block with every other one."""

import random
import re

import pytest

from provenlm.core import config
from provenlm.core.interfaces import Blocks
from provenlm.core.records import Record
from provenlm.dedup import paragraph_dedup
from provenlm.domains.text.dedupe import spec

SIZE = 12


def asked(inside: str = "remove", across: str = "remove", records: int = 2) -> Blocks:
    section = {"bytes": SIZE, "records": records, "inside": inside, "across": across}
    found = spec.SPEC.blocks(config.parse(spec.Settings, {"near": 0.7, "words": 5, "characters": 5, "blocks": section}, "x"))
    assert found is not None
    return found


def corpus(seed: int) -> list[Record]:
    """Records of paragraphs, many of them planted more than once, spaced differently each time."""
    random_ = random.Random(seed)
    pool = [" ".join(random_.choices(["alpha", "beta", "gamma", "de"], k=random_.randrange(1, 6))) for _ in range(30)]
    gaps = ["\n\n", "\n \t\n", "\n\n\n  "]
    bodies = []
    for _ in range(25):
        parts = [re.sub(" ", random_.choice([" ", "\n", "  "]), random_.choice(pool)) for _ in range(random_.randrange(1, 7))]
        bodies.append("".join(part + random_.choice(gaps) for part in parts))
    return [Record.of(body.encode(), "text/plain", f"s/{i}") for i, body in enumerate(bodies)]


def paragraphs(record: Record) -> list[str]:
    parts = [" ".join(part.split()) for part in re.split(r"\n[ \t\r]*\n", record.text)]
    whole = [part.strip() for part in re.split(r"\n[ \t\r]*\n", record.text)]
    return [part for part, raw in zip(parts, whole, strict=True) if len(raw) >= SIZE]


def brute(records: list[Record]) -> list[tuple[int, str, int, str]]:
    """(row, block, row of the original, kind) of every block that stood before, by comparing all."""
    every = [(row, part) for row, record in enumerate(records) for part in paragraphs(record)]
    found = []
    for place, (row, part) in enumerate(every):
        before = [other for other, same in every[:place] if same == part]
        if before:
            found.append((row, part, before[0], "inside" if before[0] == row else "across"))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_what_repeats_is_what_comparing_all_blocks_finds(seed):
    records, how = corpus(seed), asked()
    survey = paragraph_dedup.survey(enumerate(records), how)
    found = [
        (one.row, " ".join(records[one.row].body[one.start : one.end].decode().split()), one.of, one.kind)
        for row, record in enumerate(records)
        for one in paragraph_dedup.repeats(row, record, survey, how)
    ]
    assert found == brute(records)
    assert survey.blocks == sum(len(paragraphs(record)) for record in records)
    assert len(found) > 20


def test_nothing_that_was_removed_stands_nowhere_and_nothing_stands_twice():
    records, how = corpus(9), asked()
    survey = paragraph_dedup.survey(enumerate(records), how)
    left = [
        Record.of(
            paragraph_dedup.without(record.body, list(paragraph_dedup.repeats(row, record, survey, how))),
            "text/plain",
            record.source,
        )
        for row, record in enumerate(records)
    ]
    assert brute(left) == []
    assert {part for record in left for part in paragraphs(record)} == {part for record in records for part in paragraphs(record)}


def test_only_what_repeats_inside_is_removed_by_choice():
    body = b"first of all\n\nsecond of all\n\nfirst  of\nall\n\nthe end of it"
    records, how = [Record.of(body, "text/plain", "a"), Record.of(b"second of all", "text/plain", "b")], asked(across="keep")
    survey = paragraph_dedup.survey(enumerate(records), how)
    repeats = [list(paragraph_dedup.repeats(row, record, survey, how)) for row, record in enumerate(records)]
    assert paragraph_dedup.without(body, repeats[0]) == b"first of all\n\nsecond of all\n\nthe end of it"
    assert paragraph_dedup.without(records[1].body, repeats[1]) == b"second of all"
    assert [one.kind for one in repeats[1]] == ["across"]


def test_the_indentation_of_what_follows_a_removed_block_stays():
    header = b"# licence of it all"
    body = header + b"\n\n\n    indented(code)\n"
    records, how = [Record.of(header, "text/plain", "a"), Record.of(body, "text/plain", "b")], asked()
    survey = paragraph_dedup.survey(enumerate(records), how)
    assert paragraph_dedup.without(body, list(paragraph_dedup.repeats(1, records[1], survey, how))) == b"    indented(code)\n"
