"""Test the samples that are generated during training."""

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

TOKENIZER = CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False)
SAMPLE_CONFIG = SampleConfig(("abc", "d"), 6, SamplingConfig(1.0, 0, 1.0, 1.0))


def run(dataset: Any, model_config: Any, config: Any, generates: bool) -> tuple[nn.Module, list[StepResult], list[TrainingSample]]:
    """Train, with samples after every fifth step or without."""
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    generator = SampleGenerator(SPEC, model, TOKENIZER, SAMPLE_CONFIG, config)
    steps, samples = [], []
    for step in train_steps(
        model, SPEC.objectives(model, IGNORE), build_dataloader(dataset, config), [], config, None, lambda: None
    ):
        steps.append(step)
        if generates and step.number % 5 == 0:
            with step.eval_weights():
                samples += generator.generate(step.number)
    return model, steps, samples


def test_samples_change_no_step(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    (first, steps, samples), (second, expected, _) = (
        run(dataset, model_config, make_config(ema_decay=0.9), generates) for generates in (True, False)
    )
    assert [(each.step, each.prompt) for each in samples] == [(5, "abc"), (5, "d"), (10, "abc"), (10, "d")]
    assert all(0 < len(each.text) <= 6 for each in samples)
    assert [(s.terms, s.val_losses, s.model_metrics) for s in steps] == [(s.terms, s.val_losses, s.model_metrics) for s in expected]
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_samples_come_from_the_evaluation_weights(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    model, steps, _ = run(dataset, model_config, make_config(ema_decay=0.9), False)
    published = {name: tensor.clone() for name, tensor in steps[-1].snapshot().state_dicts["model"].items()}
    assert not torch.equal(model.state_dict()["norm.weight"], published["norm.weight"])
    with steps[-1].eval_weights():
        assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


def test_samples_are_deterministic_and_greedy_ones_take_the_argmax(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    model, _, _ = run(dataset, model_config, make_config(), False)
    generator = SampleGenerator(SPEC, model, TOKENIZER, SAMPLE_CONFIG, make_config())
    first = generator.generate(1)
    torch.manual_seed(99)
    assert generator.generate(1) == first
    (greedy,) = SampleGenerator(SPEC, model, TOKENIZER, SampleConfig(("abc",), 3, GREEDY), make_config()).generate(1)
    row = [1, 2, 3]
    for _ in range(3):
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    assert greedy.text == TOKENIZER.decode(row[3:]).decode()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("xyz", "every character must be one of 'abcdefghijklmnopqrs', got 'x'"),
        ("", "train.sample.prompts must not be empty texts"),
    ],
)
def test_a_prompt_that_cannot_be_encoded_is_refused_before_training(
    model_config: Any, make_config: Callable[..., Any], prompt: str, message: str
) -> None:
    with pytest.raises(ProvenlmError, match=message):
        SampleGenerator(SPEC, SPEC.build(model_config, 20), TOKENIZER, SampleConfig((prompt,), 3, GREEDY), make_config())


def test_a_rollback_drops_the_samples_of_undone_steps(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    model, steps, _ = run(dataset, model_config, make_config(), False)
    generator, model_metadata = (
        SampleGenerator(SPEC, model, TOKENIZER, SAMPLE_CONFIG, make_config()),
        ModelMetadata("moe", vars(model_config), 20, 8),
    )
    training_run = open_run(tmp_path, model_metadata, make_config(), "cross_entropy")
    for step in (steps[4], steps[9], steps[6]):
        training_run._save_checkpoint(step, generator)
    training_run.checkpoint_manager.close()
    assert [each.step for each in training_run.samples] == [5, 5, 7, 7]
    assert sample_generator.samples_from_json(sample_generator.samples_to_json(training_run.samples)) == training_run.samples
    assert (
        sample_generator.samples_from_json((tmp_path / "step-00000012/samples.json").read_bytes()) == training_run.samples
    )  # a snapshot is of the last step
    assert open_run(tmp_path, model_metadata, make_config(), "cross_entropy").samples == training_run.samples


def test_an_interrupted_run_has_the_same_samples(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    model_metadata, config = ModelMetadata("moe", vars(model_config), 20, 8), make_config(ema_decay=0.9)

    def train(root: Path, until: int) -> TrainingRun:
        rng_state.seed_all(3)
        training_run, model = open_run(root, model_metadata, config, "cross_entropy"), SPEC.build(model_config, 20)
        steps = train_steps(
            model,
            SPEC.objectives(model, IGNORE),
            build_dataloader(dataset, config),
            [],
            config,
            training_run.resume_checkpoint,
            lambda: None,
        )
        with progress_bar("here", "step", 12) as bar:
            training_run.run(
                steps,
                bar,
                lambda: training_run.history.rows[-1]["step"] == until,
                lambda: "",
                SampleGenerator(SPEC, model, TOKENIZER, SAMPLE_CONFIG, config),
            )
        return training_run

    full = train(tmp_path / "uninterrupted", 99)
    train(tmp_path / "interrupted", 7)
    resumed = train(tmp_path / "interrupted", 99)
    assert resumed.start_steps == [0, 7]
    assert [each.step for each in full.samples] == [5, 5, 10, 10, 12, 12]
    assert resumed.samples == full.samples


def test_each_sample_is_recorded_with_the_losses_of_its_step() -> None:
    history = StepHistory([{"step": n, "nats": 3.0 - n / 10, **({"val.nats": 4.0} if n == 4 else {})} for n in range(1, 41)])
    audit = MetricRecorder()
    sample_generator.record_samples(audit, [TrainingSample(n, "a", "b") for n in range(2, 41, 2)], history, "nats")
    (table,) = audit.tables
    assert table.rows[:2] == [(2, 2.8, "", "a", "b"), (6, 2.4, 4.0, "a", "b")]  # of 20 checkpoints 12, the first and the last too
    assert (len(table.rows), table.rows[-1]) == (12, (40, -1.0, 4.0, "a", "b"))
