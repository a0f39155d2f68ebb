"""Test the assembly of a training, the batches of a domain, and the defaults of the config."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core.config import load_params, parse_config, resolve_settings
from provenlm.core.errors import CheckpointError, ConfigError
from provenlm.core.interfaces import Augmentation, NoBatchConfig
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.moe.spec import SPEC
from provenlm.training.checkpoints.batch_dump import dump_batch, load_batch
from provenlm.training.checkpoints.manager import cpu_copy
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import (
    DistributedConfig,
    ParamGroupConfig,
    SeqLenScheduleConfig,
    TrainEvalConfig,
)
from provenlm.training.dataloader import build_dataloader, resolve_max_steps
from provenlm.training.trainer import Trainer


@dataclass(frozen=True)
class EventBatch:
    """Hold batches that are no TokenBatch: a weight for each sequence, and no label smoothing."""

    inputs_BT: Tensor
    targets_BT: Tensor
    weights_B: Tensor

    @property
    def num_sequences(self) -> int:
        return len(self.weights_B)

    @property
    def seq_len(self) -> int:
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self) -> int:
        return int((self.targets_BT != IGNORE).sum())

    def map(self, fn: Callable[[Tensor], Tensor]) -> "EventBatch":
        return EventBatch(fn(self.inputs_BT), fn(self.targets_BT), fn(self.weights_B))

    def select(self, sequences: slice) -> "EventBatch":
        return self.map(lambda tensor: tensor[sequences])


@dataclass(frozen=True)
class EventSequences:
    """Return the first four tokens of each document."""

    split: DatasetSplit

    def __len__(self) -> int:
        return len(self.split.doc_offsets) - 1

    def get_batch(self, indices: NDArray[np.int64]) -> EventBatch:
        starts = self.split.doc_offsets[indices]
        ids = torch.tensor(np.stack([self.split.ids[start : start + 3].astype(np.int64) for start in starts]))
        return EventBatch(ids[:, :-1], ids[:, 1:], torch.ones(len(indices)))


def cut_events(split: DatasetSplit, dataset: TokenDataset, config: TrainConfig) -> EventSequences:
    return EventSequences(split)


@dataclass(frozen=True)
class EventBatches:
    """Bring batches to training as the TokenizeSpec of a domain does."""

    batch_config_type: type = NoBatchConfig
    sequences: Callable[..., EventSequences | None] | None = cut_events
    augmentation: Callable[..., Augmentation | None] | None = None


EVENTS = EventBatches()


def test_a_domain_trains_on_its_own_batches(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    trainer = Trainer.create(SPEC, model_config, dataset, make_config(), domain_batches=EVENTS)
    (batch,) = trainer.dataloader.val_batches
    assert isinstance(batch, EventBatch)
    steps = list(trainer.steps())
    assert {(step.num_sequences, step.seq_len, step.num_positions, step.num_targets) for step in steps} == {(8, 2, 16, 16)}
    assert steps[-1].terms["cross_entropy"] < steps[0].terms["cross_entropy"]
    assert steps[-1].val_losses is not None


def test_epochs_count_the_sequences_of_the_domain(dataset: Any, make_config: Callable[..., Any]) -> None:
    config = make_config(max_steps=None, epochs=2.0)
    assert resolve_max_steps(config, dataset, EVENTS).max_steps == 2 * 24 // 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 0.1}, "train.label_smoothing must be 0.0 for the batches of this domain, got 0.1"),
        (
            {"seq_len_schedule": SeqLenScheduleConfig(2, 8)},
            "train.seq_len_schedule must be null for a domain with batches of its own",
        ),
    ],
)
def test_settings_that_need_token_batches_are_refused(
    dataset: Any, make_config: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_dataloader(dataset, make_config(**changes), EVENTS)


def test_a_domain_may_leave_the_packing_to_the_config(dataset: Any, make_config: Callable[..., Any]) -> None:
    leaves_it = EventBatches(sequences=lambda *inputs: None)
    own, standard = (build_dataloader(dataset, make_config(), batches) for batches in (leaves_it, None))
    assert all(
        torch.equal(own.batch_at(start, 8).inputs_BT, standard.batch_at(start, 8).inputs_BT)  # type: ignore[attr-defined]
        for start in range(0, 64, 8)
    )


def test_a_trainer_with_epochs_resumes_from_its_own_checkpoint(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    config = make_config(max_steps=None, epochs=2.0, data_packing="padded", seq_len=12)
    uninterrupted = list(Trainer.create(SPEC, model_config, dataset, config).steps())
    *_, third = islice(Trainer.create(SPEC, model_config, dataset, config).steps(), 3)
    state = cpu_copy(third.snapshot())
    rest = list(Trainer.create(SPEC, model_config, dataset, config).steps(state))
    assert [step.number for step in rest] == [4, 5, 6]
    assert [step.terms for step in rest] == [step.terms for step in uninterrupted[3:]]


def test_a_dumped_batch_of_a_domain_has_its_class_and_fields() -> None:
    tensors, metadata = dump_batch(EventBatch(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2)))
    assert tensors.keys() == {"inputs_BT", "targets_BT", "weights_B"}
    assert metadata == {"module": __name__, "type": "EventBatch", "fields": {}}


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("provenlm.core.io", "write_bytes"), ("subprocess", "Popen")])
def test_a_dump_does_not_load_other_classes(module: str, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"must be a dataclass of the package provenlm, got {module}.{name}"):
        load_batch({}, {"module": module, "type": name, "fields": {}})


def test_a_token_batch_survives_a_dump(dataset: Any, make_config: Callable[..., Any]) -> None:
    batch = build_dataloader(dataset, make_config(label_smoothing=0.2)).train_batch(0, 4)
    restored = load_batch(*dump_batch(batch))
    assert type(restored) is type(batch) and restored.label_smoothing == 0.2
    assert torch.equal(restored.inputs_BT, batch.inputs_BT)  # type: ignore[attr-defined]


def test_a_config_needs_a_duration_only() -> None:
    config = parse_config(TrainConfig, {"max_steps": 300}, "params.yaml: recipes.a.train")
    assert [setting.key for setting in resolve_settings(config) if not setting.is_default] == ["max_steps"]
    assert config.optimizer.matrix == ParamGroupConfig("muon", 0.015, (0.95,), 0.01)
    assert config.eval == TrainEvalConfig(50, 32)


def test_a_group_of_another_optimizer_needs_its_betas() -> None:
    with pytest.raises(ConfigError, match=r"matrix: betas must be 2 numbers >= 0 and < 1 for adamw, got \[0.95\]"):
        parse_config(TrainConfig, {"max_steps": 20, "optimizer": {"matrix": {"name": "adamw"}}}, "train")


@pytest.mark.parametrize(("world_size", "expected"), [(None, 16), (2, 8)])
def test_without_a_micro_batch_size_each_process_takes_its_whole_share(world_size: int | None, expected: int) -> None:
    distributed = None if world_size is None else DistributedConfig(world_size)
    assert TrainConfig(max_steps=20, distributed=distributed).max_micro_batch_size == expected


def test_the_default_recipe_states_no_default_of_training() -> None:
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    config = params.parse_section("recipes", "docs_moe", "train", TrainConfig)
    assert replace(config, sample=None, micro_batch_size=None) == TrainConfig(max_steps=300)
