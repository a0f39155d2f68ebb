"""Test that deduplication keeps passages of the training split out of the validation split."""

import random

import numpy as np
import pytest

from provenlm.core.records import Record
from provenlm.dedup.paragraph_dedup import find_repeats, index_paragraphs, remove_spans
from provenlm.domains.text.dedupe.spec import SPEC, ParagraphDedupConfig, TextDedupeConfig
from provenlm.evaluation.ngram_overlap import shared_windows

WINDOW = 64  # bytes


def pages() -> list[bytes]:
    """Build pages of unique paragraphs; every page repeats a license and a description of the others, as references do."""
    random_ = random.Random(4)

    def paragraph() -> bytes:
        return " ".join("".join(random_.choices("abcdefghij", k=6)) for _ in range(15)).encode()

    shared = [paragraph(), paragraph()]
    return [b"\n\n".join([paragraph(), shared[0], paragraph(), shared[1], paragraph()]) for _ in range(8)]


def contamination(contents: list[bytes]) -> float:
    """Return the fraction of windows of the last two pages that occur in the other pages."""
    train, val = (np.frombuffer(b"".join(part), np.uint8) for part in (contents[:-2], contents[-2:]))
    return float(shared_windows(val, train, WINDOW).mean())


def dedupe(contents: list[bytes], paragraph_dedup: ParagraphDedupConfig) -> list[bytes]:
    spec = SPEC.paragraph_dedup(TextDedupeConfig(paragraph_dedup=paragraph_dedup))
    assert spec is not None
    records = [Record.from_content(content, "text/plain", str(row)) for row, content in enumerate(contents)]
    index = index_paragraphs(enumerate(records), spec)
    return [remove_spans(item.content, list(find_repeats(row, item, index, spec))) for row, item in enumerate(records)]


def test_the_defaults_remove_passages_that_both_splits_contain():
    assert contamination(dedupe(pages(), ParagraphDedupConfig())) == 0


@pytest.mark.parametrize("config", [ParagraphDedupConfig(across_documents="keep"), ParagraphDedupConfig(min_documents=9)])
def test_without_removal_across_documents_the_splits_share_passages(config):
    contents = pages()
    assert contamination(dedupe(contents, config)) == contamination(contents) > 0.1
