from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import generation_quality
from provenlm.models.generation.sampling import GREEDY, SamplingConfig

SETTINGS = generation_quality.GenerationEvalConfig(
    ("ABC", "XYZ"), 3, 6, 20, {"greedy": GREEDY, "warm": SamplingConfig(1.0, 0, 1.0, 1.0)}
)


def run(subject, settings=SETTINGS):
    recorder, collected = MetricRecorder(), []
    generation_quality.generation_probe(settings, collected)(subject, recorder)
    return {name: figure.value for name, figure in recorder.metrics.items()}, collected, recorder


def test_every_prompt_is_continued_by_every_sampling(good):
    figures, collected, _ = run(good)
    assert len(collected) == 10
    assert [s.prompt for s in collected[:2]] == ["ABC", "XYZ"]
    assert figures["greedy.texts"] == figures["warm.texts"] == 5
    assert figures["heldout.texts"] == 3


def test_held_out_prompts_begin_the_documents_that_they_name(good):
    _, collected, _ = run(good)
    for sample in collected[2:5]:
        n = good.tokens.val.record_ids.index(sample.record)
        start = good.tokens.val.starts[n]
        assert good.codec.decode(good.tokens.val.ids[start : start + 6].tolist()).decode() == sample.prompt


def test_the_same_seed_gives_the_same_samples(good):
    assert run(good)[1] == run(good)[1]
    assert run(good)[1] != run(replace(good, seed_generators=2))[1]


def test_without_held_out_documents_only_our_own_prompts_are_continued(made, good):
    figures, collected, _ = run(replace(good, tokens=made.tokens(made.words(3, 1), [])))
    assert len(collected) == 4
    assert not [name for name in figures if name.startswith("heldout")]


def test_a_net_that_recites_is_seen_to_copy_more_than_held_out_text_does(made, good):
    """A training split that holds what the greedy net says, word for word."""
    _, collected, _ = run(good)
    recited = [1, *good.codec.prompt(collected[0].prompt + collected[0].text)[1:], 2]
    planted = replace(good, tokens=made.tokens([*made.words(5, 7), recited], made.words(12, 2)))
    figures, again, _ = run(planted)
    assert again[0].copied == again[0].tokens == figures["greedy.copied.longest"]
    assert figures["heldout.copied.mean"] < figures["greedy.copied.longest"]


@pytest.mark.parametrize(
    ("row", "share"), [([1, 2, 3, 4, 5], 0.0), ([7] * 9, 1 - 1 / 6), ([1, 2, 1, 2, 1, 2, 1], 0.5), ([1, 2], 0.0)]
)
def test_repetition_is_the_share_of_four_grams_said_before(row, share):
    assert generation_quality.ngram_repetition(row) == pytest.approx(share)


def test_distinct_n_is_over_all_texts_together():
    assert generation_quality.distinct_n([[1, 2, 1], [1, 2, 3]], 1) == pytest.approx(3 / 6)
    assert generation_quality.distinct_n([[1, 2, 1], [1, 2, 3]], 2) == pytest.approx(3 / 4)
    assert generation_quality.distinct_n([[]], 1) == 0


def test_samples_are_written_as_a_table_even_if_there_are_none(tmp_path, good):
    _, collected, recorder = run(good)
    generation_quality.write_samples(tmp_path / "a" / "b.parquet", collected)
    back = pq.read_table(tmp_path / "a" / "b.parquet")
    assert back.column("text").to_pylist() == [s.text for s in collected] == [row[2] for row in recorder.tables[0].rows]
    generation_quality.write_samples(tmp_path / "none.parquet", [])
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_nothing_to_begin_from_is_refused():
    with pytest.raises(ValueError, match="prompts or heldout_prompts"):
        generation_quality.GenerationEvalConfig((), 0, 6, 20, {"greedy": GREEDY})


def test_suffixes_of_a_whole_corpus_find_a_copied_passage(made, good):
    long = np.array(made.words(200, 3)[100][5:17])
    tokens = made.tokens(made.words(200, 3), [])
    assert generation_quality.SuffixArray.build(tokens.train.ids, 20).longest_match(long.tolist()) == 12
