"""Test the completion tasks on models that know exactly some strings."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from contexts import make_untrained_context
from torch import nn

from provenlm.core import config
from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import Record
from provenlm.data import token_dataset
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.strings.evaluate.spec import SPEC, StringsEvalConfig
from provenlm.domains.strings.scrape import spec as scrape
from provenlm.domains.strings.tokenize import spec as tokenize
from provenlm.evaluation.probe import EvalContext
from provenlm.tokenizers import characters

TRAIN, VAL = ["ab\ncd", "abx", "yy"], ["ab\nce"]


class PrefixTable(nn.Module):
    """Predict after each prefix of `sequences` its next token in the first of them, and padding after any other prefix."""

    def __init__(self, sequences: Iterable[list[int]], vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.weight = vocab_size, nn.Parameter(torch.zeros(1))
        self.next: dict[tuple[int, ...], int] = {}
        for sequence in sequences:
            for position in range(1, len(sequence)):
                self.next.setdefault(tuple(sequence[:position]), sequence[position])

    def forward(self, tokens_BT):
        logits_BTV = torch.zeros(*tokens_BT.shape, self.vocab_size)
        for b, row in enumerate(tokens_BT.tolist()):
            for t in range(len(row)):
                logits_BTV[b, t, self.next.get(tuple(row[: t + 1]), 0)] = 1
        return logits_BTV


def make_split(sequences):
    starts = torch.tensor([0, *(len(sequence) for sequence in sequences)]).cumsum(0).numpy()
    ids = torch.tensor([token for sequence in sequences for token in sequence]).numpy()
    return DatasetSplit(ids, starts, [str(n) for n in range(len(sequences))], starts[1:])


def make_context(val=VAL, knows_ends=True) -> EvalContext:
    """Build the context of a model that knows the training strings; without `knows_ends` it does not know where they end."""
    tokenizer = characters.train_character_tokenizer(
        (Record.from_content(s.encode(), "", "") for s in [*TRAIN, *VAL]), add_eos=True
    )
    train, val_rows = (
        [[*tokenizer.encode_prompt(s), tokenizer.special_tokens["eos"]] for s in strings] for strings in (TRAIN, val)
    )
    model = PrefixTable(train if knows_ends else [row[:-1] for row in train], tokenizer.vocab_size)
    tokens = TokenDataset(make_split(train), make_split(val_rows), tokenizer.vocab_size, tokenizer.special_tokens)
    return make_untrained_context(model, tokenizer, tokens, 8)


def run_probe(name, context, fixed_prompts=("ab",)):
    recorder = MetricRecorder()
    SPEC.probes(StringsEvalConfig((1,), fixed_prompts, 64))[name].run(context, recorder)
    return {key: metric.value for key, metric in recorder.metrics.items()}, recorder


def test_a_line_is_correct_if_every_token_to_its_end_is_correct():
    """Correct from positions 1 and 2 of `ab⏎ce`; from the others the model would generate d for e, or does not know the string."""
    metrics, _ = run_probe("val_completion", make_context())
    assert (metrics["strings"], metrics["lines.num_cases"], metrics["lines.accuracy"]) == (1, 5, 2 / 5)


def test_line_accuracy_has_a_ceiling_and_a_chance_level():
    metrics, _ = run_probe("val_completion", make_context())
    size = 10  # eight characters, padding and the end
    assert metrics["lines.accuracy.ceiling"] == 1
    assert metrics["lines.accuracy.chance"] == pytest.approx(sum(size**-n for n in (2, 1, 3, 2, 1)) / 5)


def test_the_ceiling_is_lower_if_equal_prefixes_continue_differently():
    metrics, _ = run_probe("val_completion", make_context(val=["ab\nce", "ab\ncd"]))
    assert metrics["lines.num_cases"] == 10
    assert metrics["lines.accuracy.ceiling"] == pytest.approx((2 + 2 + 1 + 1 + 2) / 10)
    assert metrics["lines.accuracy.ci_low"] < metrics["lines.accuracy"] < metrics["lines.accuracy.ci_high"]


def test_half_of_a_held_out_string_is_completed_by_generation():
    metrics, recorder = run_probe("val_completion", make_context(val=["ab\ncd"]))  # the same string as in training
    assert metrics["prefix_half.num_correct"] == metrics["prefix_half.num_correct.ceiling"] == 1
    assert run_probe("val_completion", make_context())[0]["prefix_half.num_correct"] == 0
    (table,) = recorder.tables
    assert table.rows == [("ab\n", "cd", "cd", "yes")]


def test_completion_of_held_out_strings_needs_a_validation_split():
    assert "validation_split" in SPEC.probes(StringsEvalConfig())["val_completion"].needs


def test_fixed_prompts_need_prompts():
    assert "fixed_prompts" in SPEC.probes(StringsEvalConfig())["fixed_prompts"].needs
    assert SPEC.conditions(StringsEvalConfig(), make_context())["fixed_prompts"].startswith("the recipe names no fixed_prompts")
    assert SPEC.conditions(StringsEvalConfig(fixed_prompts=("a",)), make_context())["fixed_prompts"] is None


def test_a_prompt_may_be_completed_to_any_matching_string():
    metrics, recorder = run_probe("fixed_prompts", make_context(), ("ab", "y"))
    assert (metrics["num_correct"], metrics["num_correct.ceiling"]) == (2, 2)
    assert metrics["num_correct.chance"] == pytest.approx(10**-4 + 10**-2 + 10**-2)
    assert recorder.tables[0].rows[0] == ("ab", "\ncd", "\ncd or x", "yes")


def test_a_completion_without_end_token_is_not_correct():
    assert run_probe("fixed_prompts", make_context(knows_ends=False), ("ab", "y"))[0]["num_correct"] == 0


def test_a_prompt_that_is_no_prefix_of_a_training_string_is_refused():
    with pytest.raises(ProvenlmError, match="fixed_prompts must be proper prefixes of training strings, got 'b'"):
        run_probe("fixed_prompts", make_context(), ("ab", "b"))


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """Return the corpus python_snippets of params.yaml: (training texts, validation texts, tokenizer, fixed prompts)."""
    table = config.load_params(Path(__file__).parents[3] / "params.yaml")
    scrape_config = table.parse_section("corpora", "python_snippets", "scrape", scrape.StringsScrapeConfig)
    tokenize_config = table.parse_section("corpora", "python_snippets", "tokenize", tokenize.StringsTokenizeConfig)
    fetched = scrape.SPEC.fetch(scrape_config, tmp_path_factory.mktemp("state"), ProgressReporter("x", "addresses", None))
    records = [fetch.record for fetch in fetched if fetch.record is not None]
    sides = {
        side: [r for r in records if token_dataset.assign_split(r.id, tokenize_config.val_fraction) == side]
        for side in ("train", "val")
    }
    tokenizer = tokenize.SPEC.train(tokenize_config, lambda: sides["train"])
    fixed_prompts = table.entry("recipes", "ladder_copilot")["validate"]["probes"]["fixed_prompts"]
    return *([r.text for r in sides[side]] for side in ("train", "val")), tokenizer, fixed_prompts


def test_the_snippets_have_a_vocabulary_of_61(snippets):
    train, val, tokenizer, _ = snippets
    assert (tokenizer.vocab_size, len(train), len(val)) == (61, 109, 12)
    assert [tokenizer.decode(tokenizer.encode_prompt(text)).decode() for text in val] == val  # no unknown character


def test_every_snippet_is_python(snippets):
    """Compile each as the body of a loop in a function, where return and continue are allowed."""
    train, val, *_ = snippets
    for text in [*train, *val]:
        lines = "\n".join(f"        {line}" for line in text.splitlines())
        compile(f"def f():\n    while True:\n{lines}\n", "snippet", "exec")


def test_each_of_the_five_fixed_prompts_begins_a_training_snippet(snippets):
    train, _, _, fixed_prompts = snippets
    assert len(fixed_prompts) == 5
    assert all(any(text.startswith(prompt) and text != prompt for text in train) for prompt in fixed_prompts)
