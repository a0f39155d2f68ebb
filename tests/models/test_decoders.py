"""What every decoder promises whatever its halves are: documents kept apart, and passes computed otherwise with the same result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import ModelSpec
from provenlm.models.gpt.config import GPTConfig as Dense
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.config import MoEConfig as Mixed
from provenlm.models.moe.spec import SPEC as MOE
from provenlm.training.build_model import arrange

LLAMA = Dense("llama", 32, 3, 4, 2, 56, 64, True, 10_000.0, 1e-5, 0.0)
GPT2 = replace(LLAMA, variant="gpt2", num_key_value_heads=4, intermediate_size=128, tie_word_embeddings=False, rope_theta=None)
MIXTURE = Mixed(32, 3, 4, 2, 4, 2, 24, 64, True, 10_000.0, 1e-5, 0.0, "layerwise", 0.01, 0.001)
NETS = pytest.mark.parametrize(("face", "shape"), [(GPT, LLAMA), (GPT, GPT2), (MOE, MIXTURE)], ids=["llama", "gpt2", "mixture"])
ROTATED = pytest.mark.parametrize(("face", "shape"), [(GPT, LLAMA), (MOE, MIXTURE)], ids=["llama", "mixture"])


def batch_of(ids: Tensor, documents: Tensor | None = None) -> Batch:
    return Batch(ids, torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORE)), 1), documents)


def passed(face: ModelSpec, model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The loss and every gradient."""
    model.zero_grad()
    (objective,) = face.objectives(model, IGNORE)
    loss = objective.loss(batch)["loss"]
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@ROTATED
def test_a_document_in_a_packed_row_is_read_as_if_it_stood_alone(beside, face, shape):
    """Positions turn queries and keys by their distance alone, so where in the row it stands does not matter."""
    model, ids = beside.built(face, shape), beside.tokens(1, 17)
    documents = torch.tensor([[4] * 6 + [5] * 11])
    packed = model.states(ids, documents_BT=documents)[0]
    alone = torch.cat([model.states(ids[:, :6])[0], model.states(ids[:, 6:])[0]], 1)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-5)
    assert (model.states(ids)[0] - alone)[:, 6:].abs().max() > 1e-2  # without the numbers it would have looked


@NETS
def test_the_loss_of_a_packed_batch_does_not_move_with_the_document_before(beside, face, shape):
    model, ids = beside.built(face, shape), beside.tokens(2, 17)
    documents = torch.tensor([[1] * 6 + [2] * 11, [3] * 17])
    states = model.states(ids, documents_BT=documents)[0]
    other = ids.clone()
    other[0, :6] = (ids[0, :6] + 1) % 61
    moved = (model.states(other, documents_BT=documents)[0] - states).abs().amax(-1)
    assert moved[0, :6].min() > 1e-3 and moved[0, 6:].max() == 0 and moved[1].max() == 0


@NETS
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_what_is_computed_again_gives_the_same_bits_and_keeps_less(beside, settings_of, face, shape, blocks):
    """With dropout, whose draws must be the same the second time."""
    model = beside.built(face, replace(shape, dropout=0.1)).train()
    batch = batch_of(beside.tokens(4, 33), torch.tensor([[1] * 20 + [2] * 13] * 4))

    def bytes_kept() -> tuple[Tensor, list[Tensor], int]:
        sizes: list[int] = []
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            return *passed(face, model, batch), sum(sizes)

    loss, gradients, kept = bytes_kept()
    arrange(model, settings_of(recompute=blocks))
    again, gradients_again, kept_again = bytes_kept()
    assert torch.equal(loss, again) and all(map(torch.equal, gradients, gradients_again))
    assert kept_again < kept / 2


def test_recompute_and_compile_are_refused_for_a_net_without_blocks(settings_of):
    with pytest.raises(ProvenlmError, match="recompute and compile are for nets of blocks; null and false would be right"):
        arrange(nn.Linear(2, 2), settings_of(recompute=1))
    arrange(nn.Linear(2, 2), settings_of())


@pytest.mark.slow  # a C++ compiler at work on each block, forward and backward: a minute
@NETS
def test_compiled_blocks_give_the_same_loss_and_gradients(beside, settings_of, face, shape):
    model, batch = beside.built(face, shape), batch_of(beside.tokens(4, 33))
    loss, gradients = passed(face, model, batch)
    names = list(model.state_dict())
    arrange(model, settings_of(compile=True))
    compiled, compiled_gradients = passed(face, model, batch)
    torch.testing.assert_close(compiled, loss, atol=1e-6, rtol=1e-6)
    for one, other in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
