import math

import pytest

from provenlm.evaluation.probes import causality

PROBES = causality.causality_probes(causality.CausalityConfig(num_positions=6, num_tokens=2048))


def asked(name, ask, subject):
    return ask(PROBES[f"leakage.{name}"], subject)


def test_a_causal_net_does_not_change_its_past(good, ask):
    figures = asked("causal", ask, good)
    assert figures["largest_change"] < 1e-4
    assert figures["own_change"] > 0.1


@pytest.mark.parametrize("fault", ["all", "peek"])
def test_a_net_that_sees_the_future_is_betrayed_by_its_past_logits(made, corpus, ask, fault):
    subject = made.subject(made.trained(corpus, 16, fault, steps=60), corpus)
    assert asked("causal", ask, subject)["largest_change"] > 0.1


def test_a_net_that_ignores_its_input_does_not_pass_for_causal(made, corpus, ask):
    figures = asked("causal", ask, made.subject(made.untrained(fault="deaf"), corpus))
    assert figures == {"positions": 6, "largest_change": 0, "own_change": 0}


def test_a_causal_net_gives_the_same_loss_to_a_prefix_alone(good, ask):
    assert asked("prefixes", ask, good)["largest_difference"] < 1e-4


@pytest.mark.parametrize("fault", ["all", "peek", "length"])
def test_a_net_whose_answers_depend_on_what_follows_loses_them_with_it(made, corpus, ask, fault):
    subject = made.subject(made.trained(corpus, 16, fault, steps=60), corpus)
    assert asked("prefixes", ask, subject)["largest_difference"] > 0.05


def test_a_net_that_learned_to_predict_the_next_token_is_best_at_it(good, ask):
    figures = asked("shift", ask, good)
    assert figures["best"] == 1
    assert figures["advantage"] > 1


@pytest.mark.parametrize("shift", [0, 2])
def test_a_net_trained_on_shifted_targets_is_best_at_those(made, corpus, ask, shift):
    figures = asked("shift", ask, made.subject(made.trained(corpus, 16, shift=shift), corpus))
    assert figures["best"] == shift
    assert figures["advantage"] < 0


def test_an_untrained_net_is_good_at_no_distance(made, corpus, ask):
    assert asked("shift", ask, made.subject(made.untrained(), corpus))["advantage"] < 0.1


def test_documents_too_short_to_shift_targets_in_are_refused(made, ask):
    short = made.tokens([[1, 3, 2]], [])
    with pytest.raises(ValueError, match="no document of more than 4 tokens"):
        asked("shift", ask, made.subject(made.untrained(), short))


def test_a_causal_net_is_not_below_ln_v_on_random_tokens(good, ask):
    figures = asked("random", ask, good)
    assert figures["floor"] == pytest.approx(math.log(29))
    assert figures["excess"] > 0
    assert figures["deviation"] > -4


def test_an_untrained_net_is_within_errors_of_ln_v_on_random_tokens(made, corpus, ask):
    figures = asked("random", ask, made.subject(made.untrained(), corpus))
    assert abs(figures["excess"]) < 0.1
    assert figures["deviation"] > -4


def test_a_net_that_peeks_at_its_target_is_below_ln_v_on_random_tokens(made, corpus, ask):
    """It learned to copy the token that it sees ahead, on text where that is hard to foretell."""
    import numpy as np

    draw = np.random.default_rng(0)
    random_text = made.tokens([[1, *draw.integers(3, 29, 50).tolist(), 2] for _ in range(40)], [])
    subject = made.subject(made.trained(random_text, 16, "peek"), random_text)
    figures = asked("random", ask, subject)
    assert figures["excess"] < -1
    assert figures["deviation"] < -4


def test_a_window_of_one_token_is_refused(made, corpus, ask):
    with pytest.raises(ValueError, match="no future"):
        asked("causal", ask, made.subject(made.untrained(), corpus, length=1))
