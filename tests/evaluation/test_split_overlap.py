from dataclasses import replace

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.split_overlap import split_overlap_probe


def test_separate_splits_share_nothing(good, ask):
    figures = ask(split_overlap_probe, good)
    assert (figures["shared_ids"], figures["shared_clusters"]) == (0, 0)
    assert figures["shared_spans"] < 0.2


def test_a_record_on_both_sides_is_counted(good, ask):
    tokens = good.tokens
    planted = replace(tokens, val=replace(tokens.val, record_ids=["t3", *tokens.val.record_ids[1:]]))
    assert ask(split_overlap_probe, replace(good, tokens=planted))["shared_ids"] == 1


def test_a_cluster_on_both_sides_is_counted(good, ask):
    tokens = good.tokens
    planted = replace(tokens, val=replace(tokens.val, clusters=["cluster of t0", *tokens.val.clusters[1:]]))
    assert ask(split_overlap_probe, replace(good, tokens=planted))["shared_clusters"] == 1


def test_a_training_document_that_slipped_into_the_held_out_ones_is_named(made, good):
    """Its id and cluster are new: only its text betrays it."""
    train, val = made.words(30, 1), made.words(6, 2)
    val[4] = [1, *range(3, 29), *range(3, 29), 2]
    train[7] = [1, *range(5, 29), *range(3, 29), *range(3, 20), 2]
    recorder = MetricRecorder()
    split_overlap_probe(replace(good, tokens=made.tokens(train, val)), recorder)
    (table,) = recorder.tables
    assert table.rows[0][0] == "v4"
    assert recorder.metrics["shared_spans.worst"].value > 0.7
    assert recorder.metrics["shared_spans.documents"].value == 1


def test_an_empty_side_has_no_shared_spans(made, good, ask):
    assert ask(split_overlap_probe, replace(good, tokens=made.tokens(made.words(3, 1), []))) == {
        "shared_ids": 0,
        "shared_clusters": 0,
    }


def test_a_split_that_does_not_name_its_clusters_is_refused(good, ask):
    planted = replace(good.tokens, val=replace(good.tokens.val, clusters=[]))
    with pytest.raises(ValueError, match="which cluster"):
        ask(split_overlap_probe, replace(good, tokens=planted))
