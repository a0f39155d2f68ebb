"""Test a corpus with a record that is one line of 50 MB."""

import random

import pytest

from provenlm.core.records import Record

SIZE = 50_000_000  # bytes


def make_words(count: int, seed: int) -> bytes:
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randrange(3, 9))) for _ in range(50_000)]
    return " ".join(rng.choices(vocabulary, k=count)).encode()


def count_records(project, line: bytes) -> tuple[int, int, int]:
    """Run the stages; return the number of records kept by filter and dedupe, and encoded."""
    project.write_params(filter=project.sections["filter"] | {"doc_words": {"drop_below": 0, "good_from": 1}})
    project.write_scraped(
        [Record.from_content(b, "text/plain", f"s/{i}") for i, b in enumerate([*(make_words(200, i) for i in range(30)), line])]
    )
    for stage in ("filter", "dedupe", "tokenize"):
        project.run(stage)
    values = project.values("filter"), project.values("dedupe"), project.values("tokenize")
    assert (values[0]["records.in"], values[0]["unaccounted"], values[2]["integrity.decode_mismatch"]) == (31, 0, 0)
    assert values[1]["unaccounted"] == values[2]["unaccounted"] == 0
    return values[0]["records.kept"], values[1]["records.unique"], values[2]["records.in"]


def test_a_single_word_of_50_megabytes_is_dropped_with_its_reason(project):
    assert count_records(project, b"x" * SIZE) == (30, 30, 30)
    assert project.values("filter")["dropped.high_avg_word_length"] == 1


@pytest.mark.slow  # encodes 50 MB as one text, which takes half a minute
def test_a_line_of_50_megabytes_that_every_rule_keeps_is_encoded_whole(project):
    assert count_records(project, make_words(SIZE // 6, 99)) == (31, 31, 31)
