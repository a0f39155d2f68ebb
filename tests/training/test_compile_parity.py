"""Test that recomputed and compiled blocks give the same gradients."""

from dataclasses import replace

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import compile_parity
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.models.common.layers.decoder import Decoder
from provenlm.models.gpt import spec as gpt
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.moe.spec import SPEC
from provenlm.training.dataloader import build_dataloader


@pytest.fixture
def case(dataset, model_config, make_config):
    usual = make_config(data_packing="concat_and_chunk")
    return TrainingCase(SPEC, lambda: SPEC.build(model_config, dataset.vocab_size), build_dataloader(dataset, usual), usual)


def record(function, case):
    recorder = MetricRecorder()
    function(recorder, case)
    return recorder.metrics["max_relative_diff"].value


def test_activation_checkpointing_gives_the_same_gradients(case):
    assert record(compile_parity.record_checkpointing_parity, case) == 0


def test_compiled_blocks_are_compared_only_where_the_recipe_compiles(case):
    probes = compile_parity.compile_parity_probes(case)
    assert probes["parity.compile"].needs == {"blocks", "train.compile"}
    assert probes["parity.activation_checkpointing"].needs == {"blocks"}


def test_recomputation_with_other_random_numbers_is_caught(case, dataset, monkeypatch):
    """Use a model with dropout, and checkpointing that does not restore the random state."""
    import provenlm.models.common.layers.block_stack as block_stack

    dense = GPTConfig("llama", 16, 2, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.1)
    case = replace(case, spec=gpt.SPEC, build=lambda: gpt.SPEC.build(dense, dataset.vocab_size))
    assert record(compile_parity.record_checkpointing_parity, case) == 0

    real = block_stack.checkpoint
    monkeypatch.setattr(block_stack, "checkpoint", lambda *inputs, **named: real(*inputs, **named, preserve_rng_state=False))
    assert record(compile_parity.record_checkpointing_parity, case) > 1e-3


def test_compiled_blocks_with_other_gradients_are_caught(case, monkeypatch):
    """Replace the compiler by one that removes the attention of a block."""
    from provenlm.models.common.layers.decoder import TransformerBlock

    monkeypatch.setattr(TransformerBlock, "compile", lambda block: torch.nn.init.zeros_(block.self_attn.o_proj.weight))
    compiled = replace(case, config=replace(case.config, compile=True))
    assert isinstance(case.build(), Decoder)
    assert record(compile_parity.record_compile_parity, compiled) > 1e-3
