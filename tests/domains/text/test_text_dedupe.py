import random
import unicodedata

import pytest

from provenlm.core import config
from provenlm.core.errors import ProvenlmError
from provenlm.core.executors.local import LocalExecutor
from provenlm.core.records import Record
from provenlm.dedup import near_duplicates
from provenlm.domains.text.dedupe.spec import SPEC, TextDedupeConfig, normalize

CONFIG = TextDedupeConfig(jaccard_threshold=0.7, ngram_words=5, ngram_chars=5)


def record(content: str | bytes, score: float = 1.0) -> Record:
    return Record.from_content(content if isinstance(content, bytes) else content.encode(), "text/plain", "here", score=score)


def dedup(*texts: str) -> near_duplicates.DedupResult:
    items = [record(text) for text in texts]
    return near_duplicates.find_duplicates(
        LocalExecutor(lambda: items), SPEC.normalize, SPEC.ngram_hashes(CONFIG), SPEC.jaccard_threshold(CONFIG)
    )


def test_texts_that_differ_in_whitespace_alone_are_equal():
    assert normalize(record(" a\tb\r\n\r\nc ")) == normalize(record("a b c")) == b"a b c"


def test_texts_that_differ_in_normal_form_alone_are_equal():
    text = "Ångström café 한국어"
    assert normalize(record(unicodedata.normalize("NFD", text))) == normalize(record(unicodedata.normalize("NFC", text)))


def test_texts_that_differ_in_case_are_not_equal():
    assert normalize(record("A b")) != normalize(record("a b"))


def test_bytes_that_are_not_utf8_are_kept():
    assert normalize(record(b"caf\xe9  x")) == b"caf\xe9 x"
    assert len(SPEC.ngram_hashes(CONFIG)(record(b"\xff\xfe"))) == 1


def test_ngrams_are_runs_of_five_words():
    ngram_hashes = SPEC.ngram_hashes(CONFIG)
    assert len(ngram_hashes(record("a b c d e f g"))) == 3
    first, shifted = (set(ngram_hashes(record(text)).tolist()) for text in ("a b c d e f", "x a b c d e"))
    assert len(first & shifted) == 1


def test_scripts_without_spaces_have_ngrams_of_five_characters():
    text = "今日はとても良い天気ですから公園を散歩しましょう"
    assert len(SPEC.ngram_hashes(CONFIG)(record(text))) == len(text) - 4


def test_near_duplicates_are_found_in_scripts_without_spaces():
    signs = [chr(code) for code in range(0x4E00, 0x4F00)]
    text = random.Random(1).choices(signs, k=400)
    near, unrelated = list(text), random.Random(2).choices(signs, k=400)
    near[100] = near[300] = "新"
    assert dedup("".join(text), "".join(near), "".join(unrelated)).kept_mask.sum() == 2


def test_texts_that_share_only_a_header_are_no_duplicates():
    words = [f"w{i}" for i in range(500)]
    header = " ".join(words[:60])
    bodies = [" ".join([header, *random.Random(seed).choices(words, k=200)]) for seed in range(5)]
    assert dedup(*bodies).kept_mask.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jaccard_threshold": 0}, "jaccard_threshold must be > 0, got 0"),
        ({"ngram_words": 0}, "ngram_words must be >= 1, got 0"),
        ({"ngram_chars": 0}, "ngram_chars must be >= 1, got 0"),
        ({"paragraph_dedup": {"min_bytes": 0}}, "paragraph_dedup: min_bytes must be >= 1, got 0"),
        ({"paragraph_dedup": {"min_documents": 1}}, "paragraph_dedup: min_documents must be >= 2, got 1"),
    ],
)
def test_invalid_values_are_refused(changes, message):
    with pytest.raises(ProvenlmError, match=message):
        config.parse_config(TextDedupeConfig, changes, "x")
