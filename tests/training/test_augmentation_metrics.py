"""Test that augmentation changes training batches by the number of the draw alone, and that augmented validation data is found."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ConfigError
from provenlm.core.interfaces import Augmentation, NoBatchConfig
from provenlm.evaluation.probes.resume_bitexact import TrainingCase, find_mismatches, run_with_and_without_resume
from provenlm.models.moe.spec import SPEC
from provenlm.training.augmentation_metrics import record_augmentation
from provenlm.training.checkpoints import checkpoint
from provenlm.training.dataloader import ConcatChunks, build_dataloader

FIRST_ID = 4  # ids of special tokens are lower


def rotate(batch: Any, draws_B: Any) -> Any:
    """Shift the ids of a sequence by the last digit of its draw, around the vocabulary."""
    amounts_B1 = torch.from_numpy(draws_B % 10)[:, None]

    def rotated(ids_BT: Any) -> Any:
        return torch.where(ids_BT >= FIRST_ID, (ids_BT - FIRST_ID + amounts_B1) % 16 + FIRST_ID, ids_BT)

    return replace(batch, inputs_BT=rotated(batch.inputs_BT), targets_BT=rotated(batch.targets_BT))


ROTATION = Augmentation(rotate, 10, "10 rotations")


@dataclass(frozen=True)
class RotationDomain:
    """Bring an augmentation to training, as the TokenizeSpec of a domain does."""

    batch_config_type: type = NoBatchConfig
    sequences: Any = None
    augmentation: Any = lambda dataset, config: ROTATION


def values_of(dataloader: Any, dataset: Any) -> dict[str, Any]:
    recorder = MetricRecorder()
    record_augmentation(recorder, dataloader, dataset.val)
    return {name: metric.value for name, metric in recorder.metrics.items()}


def test_a_variant_depends_on_the_number_of_the_draw_alone(dataset: Any, make_config: Callable[..., Any]) -> None:
    dataloader: Any = build_dataloader(dataset, make_config(), RotationDomain())
    plain: Any = build_dataloader(dataset, make_config())
    full = dataloader.batch_at(0, 60).inputs_BT
    assert torch.equal(dataloader.batch_at(37, 8).inputs_BT, full[37:45])
    assert torch.equal(plain.batch_at(0, 60).inputs_BT, dataloader.sequence_batch(0, 60).inputs_BT)
    assert not torch.equal(full, plain.batch_at(0, 60).inputs_BT)


def test_a_resumed_training_with_augmentation_ends_in_the_same_bits(
    dataset: Any, model_config: Any, make_config: Any, tmp_path: Any
) -> None:
    config = make_config()
    dataloader = build_dataloader(dataset, config, RotationDomain())
    case = TrainingCase(SPEC, lambda: SPEC.build(model_config, dataset.vocab_size), dataloader, config)
    assert find_mismatches(*run_with_and_without_resume(case, tmp_path / "c", checkpoint.load_checkpoint)) == []


def test_validation_batches_are_not_augmented(dataset: Any, make_config: Callable[..., Any]) -> None:
    dataloader: Any = build_dataloader(dataset, make_config(), RotationDomain())
    plain: Any = build_dataloader(dataset, make_config())
    for batch, plain_batch in zip(dataloader.val_batches, plain.val_batches, strict=True):
        assert torch.equal(batch.inputs_BT, plain_batch.inputs_BT)
    values = values_of(dataloader, dataset)
    assert (values["augmentation.variants"], values["augmentation.heldout_changed"]) == (10, 0)
    assert 0.5 < values["augmentation.changed"] <= 1


def test_a_domain_that_augments_its_validation_sequences_is_found(dataset: Any, make_config: Callable[..., Any]) -> None:
    """The hook for sequences sees both splits: one that augments by itself leaks into the validation loss."""

    class RotatedChunks(ConcatChunks):
        def get_batch(self, indices: Any) -> Any:
            return rotate(super().get_batch(indices), indices + 1)

    domain = RotationDomain(sequences=lambda split, dataset, config: RotatedChunks(split, config.seq_len, False))
    assert values_of(build_dataloader(dataset, make_config(), domain), dataset)["augmentation.heldout_changed"] > 0


def test_an_augmentation_that_changes_nothing_is_recorded_as_such(dataset: Any, make_config: Callable[..., Any]) -> None:
    idle = Augmentation(lambda batch, draws_B: batch, 1, "none")
    dataloader = replace(build_dataloader(dataset, make_config()), augmentation=idle)
    assert values_of(dataloader, dataset)["augmentation.changed"] == 0
    assert values_of(build_dataloader(dataset, make_config()), dataset) == {}


def test_an_augmentation_that_changes_the_shape_is_refused(dataset: Any, make_config: Callable[..., Any]) -> None:
    half = Augmentation(lambda batch, draws_B: batch.select(slice(0, len(draws_B) // 2)), 1, "half")
    with pytest.raises(ValueError, match="must keep the shape 4 × 8, got 2 × 8"):
        replace(build_dataloader(dataset, make_config()), augmentation=half).batch_at(0, 4)


def test_batch_settings_that_the_domain_does_not_know_are_refused(dataset: Any, make_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="train.batches: unknown key 'keys'"):
        build_dataloader(dataset, make_config(batches={"keys": np.int64(3)}), RotationDomain())
