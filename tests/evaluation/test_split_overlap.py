"""Test the overlap of the splits."""

from dataclasses import replace

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.split_overlap import split_overlap_probe


def test_separate_splits_share_nothing(trained_context, run_probe):
    metrics = run_probe(split_overlap_probe(), trained_context)
    assert (metrics["shared_ids"], metrics["shared_clusters"]) == (0, 0)
    assert metrics["span_fraction"] < 0.2


def test_a_record_on_both_sides_is_counted(trained_context, run_probe):
    tokens = trained_context.tokens
    planted = replace(tokens, val=replace(tokens.val, record_ids=["t3", *tokens.val.record_ids[1:]]))
    assert run_probe(split_overlap_probe(), replace(trained_context, tokens=planted))["shared_ids"] == 1


def test_a_cluster_on_both_sides_is_counted(trained_context, run_probe):
    tokens = trained_context.tokens
    planted = replace(tokens, val=replace(tokens.val, clusters=["cluster of t0", *tokens.val.clusters[1:]]))
    assert run_probe(split_overlap_probe(), replace(trained_context, tokens=planted))["shared_clusters"] == 1


def test_a_training_document_that_slipped_into_the_held_out_ones_is_named(factory, trained_context):
    """Its id and cluster are new: only its text shows the overlap."""
    train, val = factory.documents(30, 1), factory.documents(6, 2)
    val[4] = [1, *range(3, 29), *range(3, 29), 2]
    train[7] = [1, *range(5, 29), *range(3, 29), *range(3, 20), 2]
    recorder = MetricRecorder()
    split_overlap_probe().run(replace(trained_context, tokens=factory.dataset(train, val)), recorder)
    (table,) = recorder.tables
    assert table.rows[0][0] == "v4"
    assert recorder.metrics["max_per_document"].value > 0.7
    assert recorder.metrics["documents_over_half"].value == 1


def test_a_split_that_does_not_name_its_clusters_is_refused(trained_context, run_probe):
    planted = replace(trained_context.tokens, val=replace(trained_context.tokens.val, clusters=[]))
    with pytest.raises(ValueError, match="must have a cluster"):
        run_probe(split_overlap_probe(), replace(trained_context, tokens=planted))
