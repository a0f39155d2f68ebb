"""Test generated samples and the measures of their quality."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import generation_quality
from provenlm.models.generation.sampling import GREEDY, SamplingConfig

CONFIG = generation_quality.GenerationEvalConfig(
    ("ABC", "XYZ"), 3, 6, 20, {"greedy": GREEDY, "warm": SamplingConfig(1.0, 0, 1.0, 1.0)}
)


def run_generation(context, config=CONFIG):
    recorder, collected = MetricRecorder(), []
    generation_quality.generation_probe(config, collected).run(context, recorder)
    return {name: metric.value for name, metric in recorder.metrics.items()}, collected, recorder


def test_every_prompt_is_continued_by_every_sampling(trained_context):
    metrics, collected, _ = run_generation(trained_context)
    assert len(collected) == 10
    assert [s.prompt for s in collected[:2]] == ["ABC", "XYZ"]
    assert metrics["greedy.num_samples"] == metrics["warm.num_samples"] == 5
    assert metrics["val_text.num_samples"] == 3


def test_held_out_prompts_begin_the_documents_that_they_name(trained_context):
    _, collected, _ = run_generation(trained_context)
    for sample in collected[2:5]:
        n = trained_context.tokens.val.record_ids.index(sample.record_id)
        start = trained_context.tokens.val.doc_offsets[n]
        assert (
            trained_context.tokenizer.decode(trained_context.tokens.val.ids[start : start + 6].tolist()).decode() == sample.prompt
        )


def test_the_same_seed_gives_the_same_samples(trained_context):
    assert run_generation(trained_context)[1] == run_generation(trained_context)[1]
    assert run_generation(trained_context)[1] != run_generation(replace(trained_context, seed=2))[1]


def test_without_held_out_documents_only_our_own_prompts_are_continued(factory, trained_context):
    metrics, collected, _ = run_generation(replace(trained_context, tokens=factory.dataset(factory.documents(3, 1), [])))
    assert len(collected) == 4
    assert not [name for name in metrics if name.startswith("val_text")]


def test_a_model_that_recites_overlaps_more_than_validation_text(factory, trained_context):
    """The training split contains what the model generates greedily."""
    _, collected, _ = run_generation(trained_context)
    recited = [1, *trained_context.tokenizer.encode_prompt(collected[0].prompt + collected[0].text)[1:], 2]
    planted = replace(trained_context, tokens=factory.dataset([*factory.documents(5, 7), recited], factory.documents(12, 2)))
    metrics, second_run, _ = run_generation(planted)
    assert second_run[0].train_overlap == second_run[0].num_tokens == metrics["greedy.longest_train_overlap"]
    assert metrics["val_text.mean_train_overlap"] < metrics["greedy.longest_train_overlap"]


@pytest.mark.parametrize(
    ("row", "fraction"), [([1, 2, 3, 4, 5], 0.0), ([7] * 9, 1 - 1 / 6), ([1, 2, 1, 2, 1, 2, 1], 0.5), ([1, 2], 0.0)]
)
def test_repetition_is_the_fraction_of_repeated_4_grams(row, fraction):
    assert generation_quality.ngram_repetition(row) == pytest.approx(fraction)


def test_distinct_n_is_over_all_texts_together():
    assert generation_quality.distinct_n([[1, 2, 1], [1, 2, 3]], 1) == pytest.approx(3 / 6)
    assert generation_quality.distinct_n([[1, 2, 1], [1, 2, 3]], 2) == pytest.approx(3 / 4)
    assert generation_quality.distinct_n([[]], 1) == 0


def test_samples_are_written_as_a_table_even_if_there_are_none(tmp_path, trained_context):
    _, collected, recorder = run_generation(trained_context)
    generation_quality.write_samples(tmp_path / "a" / "b.parquet", collected)
    table = pq.read_table(tmp_path / "a" / "b.parquet")
    assert table.column("text").to_pylist() == [s.text for s in collected] == [row[2] for row in recorder.tables[0].rows]
    generation_quality.write_samples(tmp_path / "none.parquet", [])
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_nothing_to_begin_from_is_refused():
    with pytest.raises(ValueError, match="num_val_prompts must be >= 1"):
        generation_quality.GenerationEvalConfig((), 0, 6, 20, {"greedy": GREEDY})


def test_suffixes_of_a_whole_corpus_find_a_copied_passage(factory, trained_context):
    passage = np.array(factory.documents(200, 3)[100][5:17])
    tokens = factory.dataset(factory.documents(200, 3), [])
    assert generation_quality.SuffixArray.build(tokens.train.ids, 20).longest_match(passage.tolist()) == 12
