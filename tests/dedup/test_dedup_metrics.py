import numpy as np
import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.executors.local import LocalExecutor
from provenlm.core.ngram_hashing import hash_ngrams, hash_words
from provenlm.core.records import Record
from provenlm.dedup.metrics import DedupTally, UniqueWordCounter, record_dedup_metrics, record_recall
from provenlm.dedup.near_duplicates import DedupResult, find_duplicates
from provenlm.dedup.paragraph_dedup import ParagraphIndex


def dedup(*texts: str) -> DedupResult:
    items = [Record.from_content(text.encode(), "text/plain", f"s/{row}", score=1.0) for row, text in enumerate(texts)]
    return find_duplicates(
        LocalExecutor(lambda: items), lambda item: item.content, lambda item: hash_ngrams(hash_words(item.content), 1), 0.5
    )


def recall_metrics(result: DedupResult, truth: dict[tuple[int, int], float]) -> MetricRecorder:
    recorder = MetricRecorder()
    record_recall(recorder, result, list(range(len(result.ids))), truth)
    return recorder


def test_a_missed_pair_and_a_wrong_removal_fail_the_standard_checks():
    result = dedup("a b c", "a b c d", "x y z")  # row 0 duplicates row 1
    recorder = recall_metrics(result, {(1, 2): 1.0})  # as if brute force had found another pair only
    assert (recorder.metrics["recall"].value, recorder.metrics["precision"].value, recorder.metrics["pairs_missed"].value) == (
        0,
        0,
        1,
    )
    assert {name: check.expect for name, check in recorder.checks.items()} == {"recall": ">= 0.99", "precision": ">= 0.99"}


def test_without_pairs_and_removals_there_is_text_and_no_check():
    recorder = recall_metrics(dedup("a b c", "x y z"), {})
    assert (recorder.metrics["recall"].value, recorder.metrics["precision"].value) == ("no pairs", "none removed")
    assert not recorder.checks


@pytest.mark.parametrize(("num_written", "unaccounted"), [(2, 0), (1, 1)])
def test_a_lost_record_fails_the_standard_check(num_written, unaccounted):
    result = dedup("a b c", "a b c d", "x y z")
    tally = DedupTally(ParagraphIndex(), sizes=[5, 7, 5], num_written=num_written)
    recorder = MetricRecorder()
    record_dedup_metrics(recorder, result, tally)
    assert recorder.metrics["unaccounted"].value == unaccounted
    assert recorder.checks["unaccounted"].expect == "== 0"


def test_words_are_counted_in_all_and_by_distinct_hash():
    counter = UniqueWordCounter()
    counter.add(b"a b a")
    counter.add(b"b c")
    assert (counter.num_words, counter.num_unique, np.all(np.diff(counter._merged_hashes.astype(object)) > 0)) == (5, 3, True)
