"""Held-out strings and fixed prompts, asked of nets that know exactly what they were told: what is right, and what only looks so."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from provenlm.core import config
from provenlm.core.audit import Recorder
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress
from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.data.token_dataset import Split, Tokens
from provenlm.domains.strings.evaluate.spec import SPEC, Settings
from provenlm.domains.strings.scrape import spec as scrape
from provenlm.domains.strings.tokenize import spec as tokenize
from provenlm.evaluation.probe import Subject
from provenlm.tokenizers import characters

TRAIN, VAL = ["ab\ncd", "abx", "yy"], ["ab\nce"]


class Knowing(nn.Module):
    """Goes on from each beginning of `rows` with what comes next there, in the first of them; from any other with padding."""

    def __init__(self, rows: Iterable[list[int]], vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.weight = vocabulary, nn.Parameter(torch.zeros(1))
        self.next: dict[tuple[int, ...], int] = {}
        for row in rows:
            for place in range(1, len(row)):
                self.next.setdefault(tuple(row[:place]), row[place])

    def forward(self, tokens_BT):
        logits_BTV = torch.zeros(*tokens_BT.shape, self.vocabulary)
        for b, row in enumerate(tokens_BT.tolist()):
            for t in range(len(row)):
                logits_BTV[b, t, self.next.get(tuple(row[: t + 1]), 0)] = 1
        return logits_BTV


def split_of(rows):
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0).numpy()
    ids = torch.tensor([token for row in rows for token in row]).numpy()
    return Split(ids, starts, [str(n) for n in range(len(rows))], starts[1:])


def subject(val=VAL, ends=True) -> Subject:
    """A net that knows the training strings; with `ends` false it does not know where they end."""
    codec = characters.learn((Record.of(s.encode(), "", "") for s in [*TRAIN, *VAL]), end=True)
    train, held = ([[*codec.prompt(s), codec.special["eos"]] for s in strings] for strings in (TRAIN, val))
    model = Knowing(train if ends else [row[:-1] for row in train], codec.vocabulary)
    return Subject(
        model=model,
        logits=lambda net, tokens_BT: net(tokens_BT),
        continued=None,
        untrained=lambda: model,
        small=lambda vocabulary: model,
        losses=lambda net, inputs_BT, targets_BT: {},
        published=lambda weights: None,
        closed_form={},
        codec=codec,
        tokens=Tokens(split_of(train), split_of(held), codec.vocabulary, codec.special),
        length=8,
        seed=0,
    )


def asked(name, of, demos=("ab",)):
    recorder = Recorder()
    SPEC.probes(Settings((1,), demos, 64))[name](of, recorder)
    return {key: figure.value for key, figure in recorder.figures.items()}, recorder


def test_a_line_is_right_from_where_all_of_it_is_right_to_its_end():
    """From places 1 and 2 of `ab⏎ce`; from the others the net would write d for e, or does not know the string."""
    figures, _ = asked("completion", subject())
    assert (figures["strings"], figures["lines.cases"], figures["lines.right"]) == (1, 5, 2 / 5)


def test_lines_stand_beside_what_is_possible_and_what_chance_reaches():
    figures, _ = asked("completion", subject())
    size = 10  # eight characters, padding and the end
    assert figures["lines.right.ceiling"] == 1
    assert figures["lines.right.chance"] == pytest.approx(sum(size**-n for n in (2, 1, 3, 2, 1)) / 5)


def test_the_ceiling_is_lower_where_equal_beginnings_go_on_differently():
    figures, _ = asked("completion", subject(val=["ab\nce", "ab\ncd"]))
    assert figures["lines.cases"] == 10
    assert figures["lines.right.ceiling"] == pytest.approx((2 + 2 + 1 + 1 + 2) / 10)
    assert figures["lines.right.low"] < figures["lines.right"] < figures["lines.right.high"]


def test_half_of_a_held_out_string_is_completed_by_writing():
    figures, recorder = asked("completion", subject(val=["ab\ncd"]))  # as if it stood on both sides
    assert figures["from_half.right"] == figures["from_half.right.ceiling"] == 1
    assert asked("completion", subject())[0]["from_half.right"] == 0
    (table,) = recorder.tables
    assert table.rows == [("ab\n", "cd", "cd", "yes")]


def test_nothing_is_said_about_held_out_strings_where_there_are_none():
    assert asked("completion", subject(val=[]))[0] == {"strings": 0}


def test_a_prompt_is_completed_to_any_string_that_begins_so():
    figures, recorder = asked("demos", subject(), ("ab", "y"))
    assert (figures["right"], figures["right.ceiling"]) == (2, 2)
    assert figures["right.chance"] == pytest.approx(10**-4 + 10**-2 + 10**-2)
    assert recorder.tables[0].rows[0] == ("ab", "\ncd", "\ncd or x", "yes")


def test_a_completion_that_does_not_end_is_not_right():
    assert asked("demos", subject(ends=False), ("ab", "y"))[0]["right"] == 0


def test_a_prompt_that_no_training_string_begins_with_is_refused():
    with pytest.raises(UserError, match="no training string begins with 'b' and goes on"):
        asked("demos", subject(), ("ab", "b"))


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """The corpus of the copilot as params.yaml has it: (training texts, held-out texts, codec, demos)."""
    table = config.load(Path(__file__).parents[3] / "params.yaml")
    settings = table.settings("corpora", "python_snippets", "scrape", scrape.Settings)
    cut = table.settings("corpora", "python_snippets", "tokenize", tokenize.Settings)
    fetched = scrape.SPEC.fetch(settings, tmp_path_factory.mktemp("state"), Progress("x", "addresses", None))
    records = [fetch.record for fetch in fetched if fetch.record is not None]
    sides = {side: [r for r in records if token_dataset.side(r.id, cut.held_out) == side] for side in ("train", "val")}
    codec = tokenize.SPEC.learn(cut, lambda: sides["train"])
    demos = table.row("recipes", "ladder_copilot")["validate"]["probes"]["demos"]
    return *([r.text for r in sides[side]] for side in ("train", "val")), codec, demos


def test_the_snippets_give_the_copilot_its_vocabulary_of_61(snippets):
    train, val, codec, _ = snippets
    assert (codec.vocabulary, len(train), len(val)) == (61, 109, 12)
    assert [codec.decode(codec.prompt(text)).decode() for text in val] == val  # none has a character of its own


def test_every_snippet_is_python(snippets):
    """As the body of a function in a loop, where return and continue may stand."""
    train, val, *_ = snippets
    for text in [*train, *val]:
        lines = "\n".join(f"        {line}" for line in text.splitlines())
        compile(f"def f():\n    while True:\n{lines}\n", "snippet", "exec")


def test_each_of_the_five_fixed_prompts_begins_a_training_snippet(snippets):
    train, _, _, demos = snippets
    assert len(demos) == 5
    assert all(any(text.startswith(demo) and text != demo for text in train) for demo in demos)
