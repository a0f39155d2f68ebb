"""Figures measured again on other seeds and checkpoints: the worst of them shows, and what nobody measures is refused."""

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.sweep import ModelVariants, SweepConfig, sweep_probes


def known(subject, figures):
    """What a net's own `seed` says it can do, so that every net has other figures."""
    figures.measured("loss", 1 / subject.seed, "", "")
    figures.measured("right", subject.seed, "", "")


@pytest.fixture
def asked(made, corpus):
    """Probes that follow nets of seed 3 (the recipe's), 7 and 2, and checkpoints whose seed is their step."""
    nets = {seed: made.subject(made.untrained(), corpus, seed=seed) for seed in (2, 3, 7, 10, 20)}
    kept = [(step, lambda step=step: nets[step]) for step in (10, 20)]

    def ask(settings, steps=30):
        others = ModelVariants((3, 0.5), lambda seed: (nets[seed], seed / 10), kept, steps)
        recorder = MetricRecorder()
        for name, probe in sweep_probes(settings, {"recall": known, "dear": None}, others).items():
            with recorder.scope(name) as inner:
                probe(nets[3], inner)
        return recorder

    return ask


SETTINGS = SweepConfig((7, 2), "recall.loss", ("recall.right",))


def test_the_least_and_the_most_over_seeds_are_those_of_all_nets(asked):
    figures = {name: figure.value for name, figure in asked(SETTINGS).figures.items()}
    assert (figures["seeds.nets"], figures["seeds.recall.right.least"], figures["seeds.recall.right.most"]) == (3, 2, 7)
    assert (figures["seeds.training_seconds.least"], figures["seeds.training_seconds.most"]) == (0.2, 0.7)


def test_each_seed_is_shown_the_recipes_own_first(asked):
    table = next(t for t in asked(SETTINGS).tables if t.name == "seeds.spread")
    assert table.rows == [(3, 0.5, 0.33333, 3), (7, 0.7, 0.14286, 7), (2, 0.2, 0.5, 2)]


def test_quality_is_drawn_against_loss_from_checkpoint_to_checkpoint_to_the_end(asked):
    by_loss, by_step = asked(SETTINGS).series
    assert (by_loss.x, by_loss.lines) == ([1 / 10, 1 / 20, 1 / 3], {"recall.right": [10, 20, 3]})
    assert by_step.x == [10, 20, 30]


def test_only_the_probes_that_are_needed_are_asked(asked):
    assert asked(SETTINGS).figures  # the other one is no probe at all


def test_a_figure_of_no_probe_is_refused(asked):
    with pytest.raises(ProvenlmError, match=r"no probe measures 'recal.loss'; the probes are recall, dear"):
        asked(SweepConfig((), "recal.loss", ("recall.right",)))


def test_a_figure_that_its_probe_does_not_record_is_an_error(asked):
    with pytest.raises(ValueError, match=r"no probe recorded recall.wrong"):
        asked(SweepConfig((2,), "recall.loss", ("recall.wrong",)))


@pytest.mark.parametrize("wrong", [((1, 1), "a", ("b",)), ((), "a", ()), ((), "a", ("a",))])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="quality needs at least one figure"):
        SweepConfig(*wrong)
