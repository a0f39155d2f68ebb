import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from provenlm.core.audit import Recorder
from provenlm.data.token_dataset import Split, Tokens
from provenlm.domains.text.evaluate.spec import SPEC, Settings, closings
from provenlm.evaluation.probe import Subject

SETTINGS = Settings(10, 30, 20, 8, 8, 512)


class Ascii:
    """Characters as ids, three on; bos is 1, eos 2."""

    vocabulary = 131
    special = {"pad": 0, "bos": 1, "eos": 2}  # noqa: RUF012

    def decode(self, ids):
        return bytes(i - 3 for i in ids if i > 2)

    def prompt(self, text):
        return [1, *(ord(c) + 3 for c in text)]


class Nesting(nn.Module):
    """Names the bracket that closes the innermost open one; `stuck` names a round one always."""

    def __init__(self, stuck=False):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.stuck = stuck

    def forward(self, tokens_BT):
        logits_BTV = torch.zeros(*tokens_BT.shape, 131)
        for b, row in enumerate(tokens_BT.tolist()):
            opened = []
            for t, token in enumerate(row):
                letter = chr(token - 3) if token > 2 else " "
                if letter in "([{":
                    opened.append({"(": ")", "[": "]", "{": "}"}[letter])
                elif letter in ")]}" and opened:
                    opened.pop()
                wanted = ")" if self.stuck or not opened else opened[-1]
                logits_BTV[b, t, ord(wanted) + 3] = 5
        return logits_BTV


class Cache(nn.Module):
    """Expects what it has seen before in the row; `deaf` expects nothing."""

    def __init__(self, deaf=False):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.deaf = deaf

    def forward(self, tokens_BT):
        seen_BTV = F.one_hot(tokens_BT, 131).cumsum(1).float()
        return seen_BTV * (0 if self.deaf else 1)


def subject_of(model, texts):
    rows = [[*Ascii().prompt(text), 2] for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    names = [str(n) for n in range(len(rows))]
    ids = np.array([t for row in rows for t in row], np.uint16)
    val = Split(ids, starts, names, np.array([len(t) for t in texts]), names)
    return Subject(
        model=model,
        logits=lambda net, rows_BT: net(rows_BT),
        continued=None,
        untrained=lambda: model,
        small=lambda vocabulary: model,
        losses=lambda net, inputs_BT, targets_BT: {},
        published=lambda weights: None,
        closed_form={},
        codec=Ascii(),
        tokens=Tokens(val, val, 131, {}),
        length=64,
        seed=0,
    )


def asked(name, model, texts):
    recorder = Recorder()
    SPEC.probes(SETTINGS)[name](subject_of(model, texts), recorder)
    return {name: figure.value for name, figure in recorder.figures.items()}


BRACKETS = ["f(x) and a[i] and {k}, g(a[b]) or {k: (v)}", "(one) [two] {three} (four) (five) (six)"]
TOPICS = ["ab" * 30, "cd" * 30, "ef" * 30]


def test_a_closing_bracket_counts_if_its_opening_one_is_in_sight():
    assert list(closings("f(a[i])", 30)) == [("f(a[i", "]"), ("f(a[i]", ")")]
    assert list(closings("(0123456789)", 5)) == []
    assert list(closings("(0123)", 5)) == [("(0123", ")")]


def test_a_bracket_that_closes_another_kind_is_passed_over_with_what_was_open():
    assert list(closings("(a] b) {c}", 30)) == [("(a] b) {c", "}")]


def test_a_net_that_knows_nesting_gets_every_bracket_right():
    figures = asked("brackets", Nesting(), BRACKETS)
    assert (figures["right"], figures["right.ceiling"]) == (1, 1)
    assert figures["each"] == 3
    assert figures["right.cases"] == 9


def test_a_net_that_always_names_the_commonest_bracket_is_at_chance():
    figures = asked("brackets", Nesting(stuck=True), BRACKETS)
    assert figures["right"] == pytest.approx(figures["right.chance"]) == pytest.approx(1 / 3)


def test_text_without_one_kind_of_bracket_measures_nothing():
    assert asked("brackets", Nesting(), ["(only) [these]"]) == {"each": 0}


def test_a_net_that_uses_its_context_tells_every_continuation():
    figures = asked("context", Cache(), TOPICS)
    assert figures["right"] == 1
    assert figures["gain"] > 0
    assert figures["right.cases"] == 20


def test_a_net_that_ignores_its_context_does_not_win():
    figures = asked("context", Cache(deaf=True), TOPICS)
    assert figures["right"] <= figures["right.chance"]
    assert figures["gain"] == pytest.approx(0, abs=1e-6)


def test_one_document_has_no_foreign_continuation():
    assert asked("context", Cache(), TOPICS[:1]) == {"passages": 0}


def test_settings_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Settings(10, 30, 0, 8, 8, 512)
