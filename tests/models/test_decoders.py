"""Test what all decoders share: limit, initial loss, document masks, activation checkpointing and compilation."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from provenlm.core.errors import ConfigError
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import ModelSpec
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC as MOE
from provenlm.models.music_transformer.config import MusicTransformerConfig
from provenlm.models.music_transformer.spec import SPEC as MUSIC
from provenlm.training.build_model import apply_compile_and_ac

LLAMA = GPTConfig("llama", 32, 3, 4, 2, 56, 64, True, 10_000.0, 1e-5, 0.0)
GPT2 = replace(LLAMA, variant="gpt2", num_key_value_heads=4, intermediate_size=128, tie_word_embeddings=False, rope_theta=None)
MOE_CONFIG = MoEConfig(32, 3, 4, 2, 4, 2, 24, 64, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.01, 0.001)
BARS = MusicTransformerConfig("hierarchical", "bar", (3, 7, 11, 19), 64, 8, "llama", 32, 3, 4, 56, 64)
ROTATED_CASES = {"llama": (GPT, LLAMA), "moe": (MOE, MOE_CONFIG), "bars": (MUSIC, BARS)}
CASES = {**ROTATED_CASES, "gpt2": (GPT, GPT2)}
MODELS = pytest.mark.parametrize(("spec", "config"), CASES.values(), ids=CASES)
MUSIC_CASES = {
    "plain": (MUSIC, replace(BARS, attention="plain")),
    "strides": (MUSIC, replace(BARS, summaries="stride", summary_stride=3, variant="gpt2", head_bias=True)),
}
EVERY_MODEL = pytest.mark.parametrize(("spec", "config"), [*CASES.values(), *MUSIC_CASES.values()], ids=[*CASES, *MUSIC_CASES])
ROTATED = pytest.mark.parametrize(("spec", "config"), ROTATED_CASES.values(), ids=ROTATED_CASES)


def batch_of(ids: Tensor, documents: Tensor | None = None) -> TokenBatch:
    return TokenBatch(ids, torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORE)), 1), documents)


def loss_and_gradients(spec: ModelSpec, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, list[Tensor]]:
    """Compute the loss and every gradient."""
    model.zero_grad()
    (objective,) = spec.objectives(model, IGNORE)
    loss = objective.loss(batch)["loss"]
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@EVERY_MODEL
def test_a_sequence_longer_than_the_limit_is_refused(harness, spec, config):
    model = harness.build_random(spec, config)
    with pytest.raises(ValueError, match="must be <= max_position_embeddings = 64, got 65"):
        spec.logits(model, harness.tokens(1, 65))
    cache = KVCache(100)
    cache.set_positions(torch.tensor([[64]]))
    with pytest.raises(ValueError, match="must be <= max_position_embeddings = 64, got 65"):
        spec.logits_with_cache(model, harness.tokens(1, 1), cache)


@EVERY_MODEL
def test_the_initial_loss_is_near_that_of_guessing(harness, spec, config):
    torch.manual_seed(0)
    model = spec.build(config, 61)
    terms = harness.losses(spec, model, harness.tokens())
    assert terms.get("cross_entropy", terms["loss"]).item() == pytest.approx(math.log(61), abs=0.1)


@ROTATED
def test_a_packed_document_gets_the_states_it_gets_alone(harness, spec, config):
    """Rotary scores depend on the distance of two positions only, so the offset of the document has no effect."""
    model, ids = harness.build_random(spec, config), harness.tokens(1, 17)
    documents = torch.tensor([[4] * 6 + [5] * 11])
    packed = model.hidden_states(ids, documents_BT=documents)[0]
    alone = torch.cat([model.hidden_states(ids[:, :6])[0], model.hidden_states(ids[:, 6:])[0]], 1)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-5)
    assert (model.hidden_states(ids)[0] - alone)[:, 6:].abs().max() > 1e-2  # without document numbers it attends to the other one


@MODELS
def test_a_packed_document_does_not_depend_on_the_one_before(harness, spec, config):
    model, ids = harness.build_random(spec, config), harness.tokens(2, 17)
    documents = torch.tensor([[1] * 6 + [2] * 11, [3] * 17])
    states = model.hidden_states(ids, documents_BT=documents)[0]
    other = ids.clone()
    other[0, :6] = (ids[0, :6] + 1) % 61
    change = (model.hidden_states(other, documents_BT=documents)[0] - states).abs().amax(-1)
    assert change[0, :6].min() > 1e-3 and change[0, 6:].max() == 0 and change[1].max() == 0


@MODELS
def test_a_domains_own_batch_gives_the_loss_of_a_token_batch(harness, spec, config):
    """A batch needs inputs and targets only."""
    model, tokens = harness.build_random(spec, config), batch_of(harness.tokens())
    (objective,) = spec.objectives(model, IGNORE)
    own = SimpleNamespace(inputs_BT=tokens.inputs_BT, targets_BT=tokens.targets_BT)
    assert torch.equal(objective.loss(own)["loss"], objective.loss(tokens)["loss"])


@MODELS
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_activation_checkpointing_gives_the_same_bits_with_less_memory(harness, train_config_with, spec, config, blocks):
    """With dropout, whose random draws must be the same in the recomputation."""
    model = harness.build_random(spec, replace(config, dropout=0.1)).train()
    batch = batch_of(harness.tokens(4, 33), torch.tensor([[1] * 20 + [2] * 13] * 4))

    def count_saved_bytes() -> tuple[Tensor, list[Tensor], int]:
        sizes: list[int] = []
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            return *loss_and_gradients(spec, model, batch), sum(sizes)

    loss, gradients, saved = count_saved_bytes()
    apply_compile_and_ac(spec, model, train_config_with(activation_checkpointing=blocks))
    loss_again, gradients_again, saved_again = count_saved_bytes()
    assert torch.equal(loss, loss_again) and all(map(torch.equal, gradients, gradients_again))
    assert saved_again < saved / 2


def test_checkpointing_and_compile_need_a_model_with_blocks(train_config_with):
    spec = replace(GPT, blocks=None)
    with pytest.raises(ConfigError, match="train.activation_checkpointing: must be null for a model without the capability blocks"):
        apply_compile_and_ac(spec, nn.Linear(2, 2), train_config_with(activation_checkpointing=1))
    with pytest.raises(ConfigError, match="train.compile: must be false for a model without the capability blocks"):
        apply_compile_and_ac(spec, nn.Linear(2, 2), train_config_with(compile=True))
    apply_compile_and_ac(spec, nn.Linear(2, 2), train_config_with())


@pytest.mark.slow  # compiles each block in C++, forward and backward: a minute
@MODELS
def test_compiled_blocks_give_the_same_loss_and_gradients(harness, train_config_with, spec, config):
    model, batch = harness.build_random(spec, config), batch_of(harness.tokens(4, 33))
    loss, gradients = loss_and_gradients(spec, model, batch)
    names = list(model.state_dict())
    apply_compile_and_ac(spec, model, train_config_with(compile=True))
    compiled, compiled_gradients = loss_and_gradients(spec, model, batch)
    torch.testing.assert_close(compiled, loss, atol=1e-6, rtol=1e-6)
    for actual, expected in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
