from dataclasses import replace

import pytest

from provenlm.core.audit import Recorder
from provenlm.validation import speed
from provenlm.validation.capacity import capacity


def test_each_length_is_timed_and_the_slow_end_is_not_faster_than_the_median(good, ask):
    figures = ask(speed.speed(speed.Settings((4, 16), 9)), good)
    assert set(figures) == {"length_4.median", "length_4.p95", "length_16.median", "length_16.p95"}
    assert 0 < figures["length_16.p95"] <= figures["length_16.median"]


def test_a_length_that_training_never_saw_is_refused(good, ask):
    with pytest.raises(ValueError, match="at most 16 positions"):
        ask(speed.speed(speed.Settings((32,), 9)), good)


def test_timed_passes_are_warmed_up(good, ask):
    calls = []

    def counting(model, tokens_BT):
        calls.append(tokens_BT.shape)
        return model(tokens_BT)

    ask(speed.speed(speed.Settings((8,), 5)), replace(good, logits=counting))
    assert len(calls) == 5 + speed.WARM


@pytest.mark.parametrize(("lengths", "repeats", "said"), [((), 9, "at least one"), ((4, 4), 9, "once"), ((4,), 2, "median")])
def test_settings_that_measure_nothing_are_refused(lengths, repeats, said):
    with pytest.raises(ValueError, match=said):
        speed.Settings(lengths, repeats)


def test_the_seed_of_4850312_tokens_suits_242516_parameters_by_the_rule_of_twenty(good):
    tokens = replace(good.tokens.train, ids=range(4_850_312))
    recorder = Recorder()
    shape = {"total": 222_994_944, "active": 72_000_000}
    capacity(replace(good, tokens=replace(good.tokens, train=tokens), closed_form=shape), recorder)
    figures = recorder.figures
    assert figures["optimal_parameters"].value == 242_516
    assert figures["optimal_tokens"].value == 4_459_898_880
    assert figures["tokens_per_parameter"].value == pytest.approx(0.02175, rel=1e-3)
    assert {n for n, f in figures.items() if f.kind == "estimated"} == {n for n in figures if n.startswith("optimal")}
