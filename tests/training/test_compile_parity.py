"""Passes computed again or compiled give the gradients of plain ones; a planted difference is seen."""

from dataclasses import replace

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import compile_parity
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.models.common.layers.decoder import Decoder
from provenlm.models.gpt import spec as gpt
from provenlm.models.gpt.config import GPTConfig as Dense
from provenlm.models.moe.spec import SPEC
from provenlm.training.dataloader import build_dataloader


@pytest.fixture
def trial(tokens, shape, settings):
    usual = settings(batches="windows")
    return TrainingCase(SPEC, lambda: SPEC.build(shape, tokens.vocabulary), build_dataloader(tokens, usual), usual)


def asked(trial):
    recorder = MetricRecorder()
    compile_parity.record_compile_parity(recorder, trial)
    return {name: figure.value for name, figure in recorder.metrics.items()}


def test_passes_that_are_computed_again_give_the_same_gradients(trial):
    assert asked(trial) == {"recompute.largest_difference": 0, "compile.largest_difference": "not applicable"}


def test_a_second_pass_with_other_random_numbers_is_caught(trial, tokens, monkeypatch):
    """A dense net with dropout; torch's checkpointing is told not to keep the random state."""
    import provenlm.models.common.layers.decoder as decoder

    dense = Dense("llama", 16, 2, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.1)
    trial = replace(trial, net=gpt.SPEC, build=lambda: gpt.SPEC.build(dense, tokens.vocabulary))
    assert asked(trial)["recompute.largest_difference"] == 0

    real = decoder.checkpoint
    monkeypatch.setattr(decoder, "checkpoint", lambda *given, **named: real(*given, **named, preserve_rng_state=False))
    assert asked(trial)["recompute.largest_difference"] > 1e-3


def test_blocks_that_are_another_net_when_compiled_are_caught(trial, monkeypatch):
    """In place of a compiler, one that forgets the attention of a block."""
    from provenlm.models.common.layers.decoder import TransformerBlock

    monkeypatch.setattr(TransformerBlock, "compile", lambda block: torch.nn.init.zeros_(block.self_attn.o_proj.weight))
    compiled = replace(trial, settings=replace(trial.settings, compile=True))
    assert isinstance(trial.build(), Decoder)
    assert asked(compiled)["compile.largest_difference"] > 1e-3
