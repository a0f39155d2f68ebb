"""Test the metrics that are measured again for other seeds and checkpoints."""

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.probe import Probe
from provenlm.evaluation.sweep import ModelVariants, SweepConfig, sweep_probes


def record_seed_metrics(context, metrics):
    """Record metrics that depend on the seed of the context, so that every model has others."""
    metrics.add_measurement("loss", 1 / context.seed, "", "")
    metrics.add_measurement("right", context.seed, "", "")


def fail(context, metrics):
    raise AssertionError("a probe whose metrics are not configured must not run")


AVAILABLE = {"next_token_logits": None, "validation_split": "the validation split is empty"}
PROBES = {
    "recall": Probe(record_seed_metrics, frozenset({"next_token_logits"})),
    "expensive": Probe(fail),
    "val": Probe(fail, frozenset({"validation_split"})),
}


@pytest.fixture
def run_sweep(factory, corpus):
    """Sweep models of seed 3 (the recipe's), 7 and 2, and checkpoints whose seed is their step."""
    contexts = {seed: factory.context(factory.untrained(), corpus, seed=seed) for seed in (2, 3, 7, 10, 20)}
    checkpoints = [(step, lambda step=step: contexts[step]) for step in (10, 20)]

    def run(settings, steps=30):
        variants = ModelVariants((3, 0.5), lambda seed: (contexts[seed], seed / 10), checkpoints, steps)
        recorder = MetricRecorder()
        for name, probe in sweep_probes(settings, PROBES, variants, AVAILABLE).items():
            with recorder.scope(name) as inner:
                probe.run(contexts[3], inner)
        return recorder

    return run


CONFIG = SweepConfig((7, 2), "recall.loss", ("recall.right",))


def test_minimum_and_maximum_are_over_all_seeds(run_sweep):
    metrics = {name: metric.value for name, metric in run_sweep(CONFIG).metrics.items()}
    assert (metrics["seed_sweep.num_models"], metrics["seed_sweep.recall.right.min"], metrics["seed_sweep.recall.right.max"]) == (
        3,
        2,
        7,
    )
    assert (metrics["seed_sweep.training_seconds.min"], metrics["seed_sweep.training_seconds.max"]) == (0.2, 0.7)


def test_the_table_lists_the_seed_of_the_recipe_first(run_sweep):
    table = next(t for t in run_sweep(CONFIG).tables if t.name == "seed_sweep.seeds")
    assert table.rows == [(3, 0.5, 0.33333, 3), (7, 0.7, 0.14286, 7), (2, 0.2, 0.5, 2)]


def test_metrics_are_plotted_at_each_checkpoint_and_at_the_end(run_sweep):
    by_loss, by_step = run_sweep(CONFIG).series
    assert (by_loss.x_values, by_loss.y_values) == ([1 / 10, 1 / 20, 1 / 3], {"recall.right": [10, 20, 3]})
    assert by_step.x_values == [10, 20, 30]


def test_only_the_needed_probes_run(run_sweep):
    assert run_sweep(CONFIG).metrics  # the other one is no probe at all


def test_a_metric_of_no_probe_is_refused(run_sweep):
    with pytest.raises(ProvenlmError, match=r"no probe records 'recal.loss'; the probes are recall, expensive, val"):
        run_sweep(SweepConfig((), "recal.loss", ("recall.right",)))


def test_a_metric_that_its_probe_does_not_record_is_an_error(run_sweep):
    with pytest.raises(ValueError, match=r"no probe recorded recall.wrong"):
        run_sweep(SweepConfig((2,), "recall.loss", ("recall.wrong",)))


def test_a_metric_of_a_probe_that_does_not_apply_is_refused(run_sweep):
    with pytest.raises(ProvenlmError, match=r"validate.sweeps: probe val does not apply: the validation split is empty"):
        run_sweep(SweepConfig((2,), "val.loss", ("recall.right",)))


def test_without_a_config_both_probes_need_one():
    probes = sweep_probes(None, PROBES, ModelVariants((3, 0.5), lambda seed: None, [], 30), AVAILABLE)
    assert {name: probe.needs for name, probe in probes.items()} == {
        "seed_sweep": {"sweep_seeds"},
        "checkpoint_sweep": {"sweep_checkpoints"},
    }


@pytest.mark.parametrize("arguments", [((1, 1), "a", ("b",)), ((), "a", ()), ((), "a", ("a",))])
def test_inconsistent_sweeps_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        SweepConfig(*arguments)
