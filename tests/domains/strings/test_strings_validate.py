from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from provenlm.core.audit import MetricRecorder
from provenlm.core.records import Record
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.strings.evaluate.spec import SPEC, StringsEvalConfig, max_completable
from provenlm.evaluation.probe import EvalContext
from provenlm.models.moe.config import MoEConfig as Shape
from provenlm.models.moe.spec import SPEC as MOE
from provenlm.tokenizers.characters import train_character_tokenizer

STRINGS = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY", "12345", "67890", "AAAAA", "BBBBB", "CCCCC", "A1B2C", "X9Y8Z"]
MODEL_CONFIG = Shape(32, 1, 2, 1, 2, 1, 32, 8, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.0, 0.0)


def make_split(sequences):
    starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64)
    names = [str(n) for n in range(len(sequences))]
    return DatasetSplit(
        np.array([t for sequence in sequences for t in sequence], np.uint16),
        starts,
        names,
        np.array([len(r) for r in sequences]),
        names,
    )


def context_after(steps):
    """Return the context of a model after `steps` full-batch steps on the twelve strings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_character_tokenizer((Record.from_content(s.encode(), "text/plain", "test") for s in STRINGS), add_eos=False)
    sequences = [tokenizer.encode_prompt(s) for s in STRINGS]
    model = MOE.build(MODEL_CONFIG, tokenizer.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2, betas=(0.9, 0.99), weight_decay=0)
    ids_BT = torch.tensor(sequences)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten()).backward()
        optimizer.step()
    return EvalContext(
        model=model.eval(),
        logits=MOE.logits,
        logits_with_cache=MOE.logits_with_cache,
        build_untrained=lambda: model,
        build_small=lambda vocab_size: MOE.build(MODEL_CONFIG, vocab_size),
        losses=lambda model, batch: {},
        train_batch=lambda num_sequences: None,
        to_hf=None,
        analytic_counts=MOE.num_params(MODEL_CONFIG, tokenizer.vocab_size),
        tokenizer=tokenizer,
        tokens=TokenDataset(make_split(sequences), make_split([]), tokenizer.vocab_size, tokenizer.special_tokens),
        max_seq_len=8,
        seed=0,
    )


@pytest.fixture(scope="module")
def learned():
    return context_after(120)


def train_completion(context, prompt_chars=(1, 2)):
    recorder = MetricRecorder()
    SPEC.probes(StringsEvalConfig(prompt_chars, (), 64))["train_completion"].run(context, recorder)
    return {name: metric.value for name, metric in recorder.metrics.items()}, recorder


def test_from_one_character_ten_of_twelve_strings_are_completed(learned):
    metrics, _ = train_completion(learned)
    assert metrics["prefix_1.num_correct"] == metrics["prefix_1.num_correct.ceiling"] == 10
    assert metrics["prefix_1.num_missed"] == 0


def test_from_two_characters_all_twelve_strings_are_completed(learned):
    metrics, _ = train_completion(learned)
    assert metrics["prefix_2.num_correct"] == metrics["prefix_2.num_correct.ceiling"] == metrics["strings"] == 12


def test_completions_agree_with_teacher_forced_predictions(learned):
    metrics, _ = train_completion(learned)
    assert [metrics[f"prefix_{k}.num_correct_teacher_forced"] for k in (1, 2)] == [10, 12]


def test_the_token_accuracy_ceiling_is_46_of_48_after_one_character(learned):
    metrics, _ = train_completion(learned)
    assert metrics["prefix_1.accuracy.ceiling"] == pytest.approx(46 / 48)
    assert metrics["prefix_1.accuracy"] == pytest.approx(46 / 48)
    assert metrics["prefix_2.accuracy.ceiling"] == 1


def test_the_loss_approaches_its_minimum_from_above(learned):
    metrics, _ = train_completion(learned)
    assert round(metrics["prefix_1.min_achievable_loss"], 4) == 0.0687
    assert metrics["prefix_1.min_achievable_loss"] < metrics["prefix_1.loss"] < metrics["prefix_1.min_achievable_loss"] + 0.05


def test_an_untrained_tied_model_completes_only_strings_of_one_letter():
    metrics, recorder = train_completion(context_after(0))
    table = next(t for t in recorder.tables if t.name == "prefix_2.strings")
    assert [row[2] for row in table.rows if row[3] == "yes"] == ["AAA", "BBB", "CCC"]
    assert (metrics["prefix_1.num_missed"], metrics["prefix_2.num_missed"]) == (7, 9)


def test_the_chance_level_is_that_of_drawing_four_characters(learned):
    metrics, _ = train_completion(learned)
    assert metrics["prefix_1.num_correct.chance"] == pytest.approx(12 / learned.tokens.vocab_size**4)


def test_the_table_lists_every_string_and_its_completion(learned):
    _, recorder = train_completion(learned)
    table = next(t for t in recorder.tables if t.name == "prefix_1.strings")
    assert len(table.rows) == 12
    assert sum(row[3] == "yes" for row in table.rows) == 10
    assert ("F", "GHIJ", "GHIJ", "yes") in table.rows


def test_a_prompt_that_is_the_whole_string_is_refused(learned):
    with pytest.raises(ValueError, match="first 5 characters"):
        train_completion(learned, (5,))


def test_a_model_that_forgot_one_string_misses_it(learned):
    """Only its answer to the prompt F differs."""
    wrong = learned.tokenizer.encode_prompt("F")[0]

    def forgetful(model, tokens_BT):
        logits_BTV = model(tokens_BT)
        return torch.where((tokens_BT[:, :1] == wrong)[..., None], -logits_BTV, logits_BTV)

    metrics, _ = train_completion(replace(learned, logits=forgetful, logits_with_cache=None))
    assert (metrics["prefix_1.num_missed"], metrics["prefix_2.num_missed"]) == (1, 1)


def test_equal_prompts_have_one_completion_unless_strings_are_equal():
    assert max_completable([[1], [1], [2]], [[5], [6], [7]]) == 2
    assert max_completable([[1], [1], [2]], [[5], [5], [7]]) == 3


def test_no_prompt_is_refused():
    with pytest.raises(ValueError, match=r"prompt_chars must be a non-empty list of numbers >= 1, got \[0\]"):
        StringsEvalConfig((0,), (), 64)
