"""A net of ours in; out, Hugging Face's model of the same configuration with the same weights, and a training step of either.

Shapes: N tokens.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import Net


def built(net: Net, settings: Any, vocabulary: int) -> nn.Module:
    """A net of ours with every matrix drawn, so that no product is with zeros."""
    torch.manual_seed(0)
    model = net.build(settings, vocabulary)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.02)
    return model.train()


def peer(net: Net, settings: Any, ours: nn.Module, vocabulary: int, **more: Any) -> nn.Module:
    """Hugging Face's model with the weights of `ours`; `more` are keys of its configuration, `experts_implementation` among them."""
    published = net.published(settings, vocabulary, ours.state_dict())
    experts = more.pop("experts_implementation", None)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**published.config, "use_cache": False, **more}))
    if experts is not None:
        made.set_experts_implementation(experts)
    made.load_state_dict(dict(published.tensors), strict=False)
    made.tie_weights()
    return made.train()


def mixtral_experts(way: str, gate_up_E2FD: nn.Parameter, down_EDF: nn.Parameter, chosen: int) -> Callable[..., Tensor]:
    """The expert layer of Mixtral in one of its ways, on matrices of ours."""
    n_experts, hidden, inner = down_EDF.shape
    config = AutoConfig.for_model(
        "mixtral", hidden_size=hidden, intermediate_size=inner, num_local_experts=n_experts, num_experts_per_tok=chosen
    )
    config._experts_implementation = way
    with torch.device("meta"):
        layer = MixtralExperts(config)
    layer.gate_up_proj, layer.down_proj = gate_up_E2FD, down_EDF
    return lambda states_ND, chosen_NK, weights_NK, *_: layer(states_ND, chosen_NK, weights_NK)


def loss_of_ours(net: Net, model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    objective = net.objectives(model, IGNORE)[0]
    return lambda: objective.loss(batch)["loss"]


def loss_of_peer(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    return lambda: model(input_ids=batch.inputs_BT, labels=batch.inputs_BT, shift_labels=batch.targets_BT).loss


def drawn(vocabulary: int, rows: int, length: int, device: str = "cpu") -> Batch:
    """A batch of random tokens, the same for everyone."""
    ids = torch.randint(vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(1)).to(device)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def products(model: nn.Module, tokens: int, chosen: int, dtype: torch.dtype) -> Callable[[], float]:
    """The matrix products of a training step of `model`, a net of ours, and nothing else: what no step can be faster than.

    Forward, and backward to states and to weights, of every matrix and of the head; every expert has its even share of the `tokens`,
    each of which goes to `chosen`. They write into memory that is there already.
    """
    runs: list[tuple[Tensor, ...]] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or (name == "embed_tokens.weight" and model.lm_head is not None):
            continue
        matrices = parameter.detach().to(dtype).unbind(0) if parameter.ndim == 3 else [parameter.detach().to(dtype)]
        rows = tokens * chosen // len(matrices) if parameter.ndim == 3 else tokens
        for matrix in matrices:
            states, slopes = torch.randn(rows, matrix.shape[1], dtype=dtype), torch.randn(rows, matrix.shape[0], dtype=dtype)
            runs.append((matrix, states, slopes, torch.empty_like(slopes), torch.empty_like(states), torch.empty_like(matrix)))

    def once() -> float:
        for matrix, states, slopes, forward, to_states, to_matrix in runs:
            torch.mm(states, matrix.T, out=forward)
            torch.mm(slopes, matrix, out=to_states)
            torch.mm(slopes.T, states, out=to_matrix)
        return 0.0

    return once


def step(model: nn.Module, loss: Callable[[], Tensor], autocast: bool, device: str = "cpu") -> Callable[[], float]:
    """A whole training step: forward, backward, clipping, fused AdamW; the same for everyone. It gives the loss, and so waits for it."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def once() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.item()

    return once
