"""Samples at checkpoints: written by the weights that are judged, without a trace in the training, kept beside its losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import progress_bar
from provenlm.models.common.objective import IGNORE
from provenlm.models.generation.sampling import GREEDY, SamplingConfig
from provenlm.models.moe.spec import SPEC
from provenlm.tokenizers import registry
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.training import rng_state, sample_generator
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.config_sections import SampleConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.run import TrainingRun, open_run
from provenlm.training.sample_generator import SampleGenerator, TrainingSample
from provenlm.training.step import StepResult

CODEC = CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False)
WANTED = SampleConfig(("abc", "d"), 6, SamplingConfig(1.0, 0, 1.0, 1.0))


def run(tokens: Any, shape: Any, settings: Any, writes: bool) -> tuple[nn.Module, list[StepResult], list[TrainingSample]]:
    """A run that writes after every fifth step, or not."""
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    writer = SampleGenerator(SPEC, model, CODEC, WANTED, settings)
    steps, written = [], []
    for step in train_steps(
        model, SPEC.objectives(model, IGNORE), build_dataloader(tokens, settings), [], settings, None, lambda: None
    ):
        steps.append(step)
        if writes and step.number % 5 == 0:
            with step.eval_weights():
                written += writer.generate(step.number)
    return model, steps, written


def test_writing_changes_no_step(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    (one, steps, written), (other, expected, _) = (run(tokens, shape, settings(ema=0.9), writes) for writes in (True, False))
    assert [(each.step, each.prompt) for each in written] == [(5, "abc"), (5, "d"), (10, "abc"), (10, "d")]
    assert all(0 < len(each.text) <= 6 for each in written)
    assert [(s.terms, s.val_losses, s.model_metrics) for s in steps] == [(s.terms, s.val_losses, s.model_metrics) for s in expected]
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_the_weights_that_write_are_those_that_are_judged(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    model, steps, _ = run(tokens, shape, settings(ema=0.9), False)
    published = {name: tensor.clone() for name, tensor in steps[-1].snapshot().state_dicts["model"].items()}
    assert not torch.equal(model.state_dict()["norm.weight"], published["norm.weight"])
    with steps[-1].eval_weights():
        assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


def test_the_same_net_writes_the_same_and_greedily_what_it_finds_most_probable(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    model, _, _ = run(tokens, shape, settings(), False)
    writer = SampleGenerator(SPEC, model, CODEC, WANTED, settings())
    first = writer.generate(1)
    torch.manual_seed(99)
    assert writer.generate(1) == first
    (greedy,) = SampleGenerator(SPEC, model, CODEC, SampleConfig(("abc",), 3, GREEDY), settings()).generate(1)
    row = [1, 2, 3]
    for _ in range(3):
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    assert greedy.text == CODEC.decode(row[3:]).decode()


@pytest.mark.parametrize(("prompt", "message"), [("xyz", "no id for the character 'x'"), ("", "each needs at least one character")])
def test_a_prompt_that_the_codec_cannot_write_down_is_refused_before_training(
    shape: Any, settings: Callable[..., Any], prompt: str, message: str
) -> None:
    with pytest.raises(ProvenlmError, match=message):
        SampleGenerator(SPEC, SPEC.build(shape, 20), CODEC, SampleConfig((prompt,), 3, GREEDY), settings())


def test_a_session_keeps_what_was_written_and_forgets_what_going_back_undid(
    tokens: Any, shape: Any, settings: Callable[..., Any], tmp_path: Path
) -> None:
    model, steps, _ = run(tokens, shape, settings(), False)
    writer, described = SampleGenerator(SPEC, model, CODEC, WANTED, settings()), ModelMetadata("moe", vars(shape), 20, 8)
    ours = open_run(tmp_path, described, settings(), "cross_entropy")
    for step in (steps[4], steps[9], steps[6]):
        ours._save_checkpoint(step, writer)
    ours.checkpoint_manager.close()
    assert [each.step for each in ours.samples] == [5, 5, 7, 7]
    assert sample_generator.samples_from_json(sample_generator.samples_to_json(ours.samples)) == ours.samples
    assert (
        sample_generator.samples_from_json((tmp_path / "step-00000012/samples.json").read_bytes()) == ours.samples
    )  # a snapshot is of the last step
    assert open_run(tmp_path, described, settings(), "cross_entropy").samples == ours.samples


def test_an_interrupted_run_has_written_what_one_has_that_was_not(
    tokens: Any, shape: Any, settings: Callable[..., Any], tmp_path: Path
) -> None:
    described, wanted = ModelMetadata("moe", vars(shape), 20, 8), settings(ema=0.9)

    def go_on(root: Path, until: int) -> TrainingRun:
        rng_state.seed_all(3)
        ours, model = open_run(root, described, wanted, "cross_entropy"), SPEC.build(shape, 20)
        steps = train_steps(
            model,
            SPEC.objectives(model, IGNORE),
            build_dataloader(tokens, wanted),
            [],
            wanted,
            ours.resume_checkpoint,
            lambda: None,
        )
        with progress_bar("here", "step", 12) as bar:
            ours.run(
                steps,
                bar,
                lambda: ours.history.rows[-1]["step"] == until,
                lambda: "",
                SampleGenerator(SPEC, model, CODEC, WANTED, wanted),
            )
        return ours

    whole = go_on(tmp_path / "whole", 99)
    go_on(tmp_path / "asked", 7)
    resumed = go_on(tmp_path / "asked", 99)
    assert resumed.start_steps == [0, 7]
    assert [each.step for each in whole.samples] == [5, 5, 10, 10, 12, 12]
    assert resumed.samples == whole.samples


def test_each_sample_stands_beside_the_losses_of_its_step() -> None:
    history = StepHistory([{"step": n, "nats": 3.0 - n / 10, **({"held_out.nats": 4.0} if n == 4 else {})} for n in range(1, 41)])
    audit = MetricRecorder()
    sample_generator.record_samples(audit, [TrainingSample(n, "a", "b") for n in range(2, 41, 2)], history, "nats")
    (table,) = audit.tables
    assert table.rows[:2] == [(2, 2.8, "", "a", "b"), (6, 2.4, 4.0, "a", "b")]  # of 20 checkpoints 12, the first and the last too
    assert (len(table.rows), table.rows[-1]) == (12, (40, -1.0, 4.0, "a", "b"))


def test_a_codec_is_loaded_by_what_its_folder_says_it_is(tmp_path: Path) -> None:
    CODEC.save(tmp_path)
    assert registry.load_tokenizer(tmp_path).encode_prompt("abs") == [1, 2, 19]
    (tmp_path / "codec.json").write_text('{"kind": "runes"}')
    with pytest.raises(ProvenlmError, match="a codec of kind 'runes'; known here: characters, "):
        registry.load_tokenizer(tmp_path)
    (tmp_path / "codec.json").write_text("{")
    with pytest.raises(ProvenlmError, match="not readable as a codec"):
        registry.load_tokenizer(tmp_path)
