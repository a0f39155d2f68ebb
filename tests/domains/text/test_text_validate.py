import numpy as np
import pytest
import torch
from contexts import make_untrained_context
from torch import nn
from torch.nn import functional as F

from provenlm.core.audit import MetricRecorder
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.text.evaluate.spec import SPEC, TextEvalConfig, find_closing_brackets

CONFIG = TextEvalConfig(10, 30, 20, 8, 8, 512)


class AsciiTokenizer:
    """Map ASCII characters to ids from 3 on; bos is 1, eos 2."""

    vocab_size = 131
    special_tokens = {"pad": 0, "bos": 1, "eos": 2}  # noqa: RUF012

    def decode(self, ids):
        return bytes(i - 3 for i in ids if i > 2)

    def encode_prompt(self, text):
        return [1, *(ord(c) + 3 for c in text)]


class BracketModel(nn.Module):
    """Predict the bracket that closes the innermost open one; with `stuck` always a round one."""

    def __init__(self, stuck=False):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))
        self.stuck = stuck

    def forward(self, tokens_BT):
        logits_BTV = torch.zeros(*tokens_BT.shape, 131)
        for b, row in enumerate(tokens_BT.tolist()):
            open_brackets = []
            for t, token in enumerate(row):
                letter = chr(token - 3) if token > 2 else " "
                if letter in "([{":
                    open_brackets.append({"(": ")", "[": "]", "{": "}"}[letter])
                elif letter in ")]}" and open_brackets:
                    open_brackets.pop()
                expected = ")" if self.stuck or not open_brackets else open_brackets[-1]
                logits_BTV[b, t, ord(expected) + 3] = 5
        return logits_BTV


class RecallModel(nn.Module):
    """Predict tokens that occurred before in the sequence; with `ignores_context` all tokens alike."""

    def __init__(self, ignores_context=False):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))
        self.ignores_context = ignores_context

    def forward(self, tokens_BT):
        seen_BTV = F.one_hot(tokens_BT, 131).cumsum(1).float()
        return seen_BTV * (0 if self.ignores_context else 1)


def make_context(model, texts):
    sequences = [[*AsciiTokenizer().encode_prompt(text), 2] for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64)
    names = [str(n) for n in range(len(sequences))]
    ids = np.array([t for sequence in sequences for t in sequence], np.uint16)
    val = DatasetSplit(ids, starts, names, np.array([len(t) for t in texts]), names)
    return make_untrained_context(model, AsciiTokenizer(), TokenDataset(val, val, 131, {}), 64)


def run_probe(name, model, texts):
    recorder = MetricRecorder()
    SPEC.probes(CONFIG)[name].run(make_context(model, texts), recorder)
    return {name: metric.value for name, metric in recorder.metrics.items()}


BRACKETS = ["f(x) and a[i] and {k}, g(a[b]) or {k: (v)}", "(one) [two] {three} (four) (five) (six)"]
TOPICS = ["ab" * 30, "cd" * 30, "ef" * 30]


def test_a_closing_bracket_counts_if_its_opening_one_is_in_the_context():
    assert list(find_closing_brackets("f(a[i])", 30)) == [("f(a[i", "]"), ("f(a[i]", ")")]
    assert list(find_closing_brackets("(0123456789)", 5)) == []
    assert list(find_closing_brackets("(0123)", 5)) == [("(0123", ")")]


def test_a_mismatched_closing_bracket_resets_the_open_brackets():
    assert list(find_closing_brackets("(a] b) {c}", 30)) == [("(a] b) {c", "}")]


def test_a_model_that_knows_nesting_closes_every_bracket():
    metrics = run_probe("brackets", BracketModel(), BRACKETS)
    assert (metrics["accuracy"], metrics["accuracy.ceiling"]) == (1, 1)
    assert metrics["cases_per_type"] == 3
    assert metrics["accuracy.num_cases"] == 9


def test_a_model_that_always_chooses_one_bracket_is_at_chance():
    metrics = run_probe("brackets", BracketModel(stuck=True), BRACKETS)
    assert metrics["accuracy"] == pytest.approx(metrics["accuracy.chance"]) == pytest.approx(1 / 3)


def test_text_without_one_type_of_bracket_records_no_accuracy():
    assert run_probe("brackets", BracketModel(), ["(only) [these]"]) == {"cases_per_type": 0}


def test_a_model_that_uses_its_context_chooses_every_continuation():
    metrics = run_probe("continuation_choice", RecallModel(), TOPICS)
    assert metrics["accuracy"] == 1
    assert metrics["loss_gain"] > 0
    assert metrics["accuracy.num_cases"] == 20


def test_a_model_that_ignores_its_context_is_at_chance():
    metrics = run_probe("continuation_choice", RecallModel(ignores_context=True), TOPICS)
    assert metrics["accuracy"] <= metrics["accuracy.chance"]
    assert metrics["loss_gain"] == pytest.approx(0, abs=1e-6)


def test_one_document_has_no_foreign_continuation():
    assert run_probe("continuation_choice", RecallModel(), TOPICS[:1]) == {"num_passages": 0}


def test_the_tasks_need_closing_brackets_and_pairs_of_passages():
    conditions = SPEC.conditions(CONFIG, make_context(BracketModel(), ["(only) [these]"]))
    assert conditions["closing_brackets"] == "the validation split has no closing bracket }"
    assert conditions["passage_pairs"].startswith("fewer than two validation documents have")
    assert set(SPEC.conditions(CONFIG, make_context(BracketModel(), [*BRACKETS, *TOPICS])).values()) == {None}


def test_values_below_one_are_refused():
    with pytest.raises(ValueError, match="num_pairs must be >= 1, got 0"):
        TextEvalConfig(10, 30, 0, 8, 8, 512)
