"""Build Hugging Face models with our configuration and weights, and their steps.

Shapes: N tokens, K experts per token, E experts, F intermediate size, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import ModelSpec


def build_ours(spec: ModelSpec, model_config: Any, vocab_size: int) -> nn.Module:
    """Build our model with random matrices, so that no product is with zeros."""
    torch.manual_seed(0)
    model = spec.build(model_config, vocab_size)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, 0.02)
    return model.train()


def build_peer(spec: ModelSpec, model_config: Any, ours: nn.Module, vocab_size: int, **config_overrides: Any) -> nn.Module:
    """Build the Hugging Face model with the weights of `ours`.

    Overrides may include `experts_implementation`.
    """
    export = spec.to_hf(model_config, vocab_size, ours.state_dict())
    experts = config_overrides.pop("experts_implementation", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**export.config, "use_cache": False, **config_overrides}))
    if experts is not None:
        model.set_experts_implementation(experts)
    model.load_state_dict(dict(export.state_dict), strict=False)
    model.tie_weights()
    return model.train()


def mixtral_experts(implementation: str, gate_up_E2FD: nn.Parameter, down_EDF: nn.Parameter, top_k: int) -> Callable[..., Tensor]:
    """Return the expert layer of Mixtral with this implementation, on our matrices."""
    n_experts, hidden, intermediate = down_EDF.shape
    config = AutoConfig.for_model(
        "mixtral", hidden_size=hidden, intermediate_size=intermediate, num_local_experts=n_experts, num_experts_per_tok=top_k
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        layer = MixtralExperts(config)
    layer.gate_up_proj, layer.down_proj = gate_up_E2FD, down_EDF
    return lambda states_ND, selected_NK, weights_NK, *_: layer(states_ND, selected_NK, weights_NK)


def our_loss(spec: ModelSpec, model: nn.Module, batch: TokenBatch) -> Callable[[], Tensor]:
    objective = spec.objectives(model, IGNORE)[0]
    return lambda: objective.loss(batch)["loss"]


def peer_loss(model: nn.Module, batch: TokenBatch) -> Callable[[], Tensor]:
    return lambda: model(input_ids=batch.inputs_BT, labels=batch.inputs_BT, shift_labels=batch.targets_BT).loss


def random_batch(vocab_size: int, batch_size: int, seq_len: int, device: str = "cpu") -> TokenBatch:
    """Return a batch of random tokens, the same in every call."""
    ids = torch.randint(vocab_size, (batch_size, seq_len + 1), generator=torch.Generator().manual_seed(1)).to(device)
    return TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def matmul_lower_bound(model: nn.Module, tokens: int, top_k: int, dtype: torch.dtype) -> Callable[[], float]:
    """Return a function that runs only the matrix products of a training step.

    Its time is a lower bound of the time of the step.

    It runs the forward product and the two backward products of every matrix and of the output layer. Tokens are spread evenly over the
    experts, `top_k` experts for each token. Outputs are preallocated.
    """
    runs: list[tuple[Tensor, ...]] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or (name == "embed_tokens.weight" and model.lm_head is not None):
            continue
        matrices = parameter.detach().to(dtype).unbind(0) if parameter.ndim == 3 else [parameter.detach().to(dtype)]
        num_rows = tokens * top_k // len(matrices) if parameter.ndim == 3 else tokens
        for matrix in matrices:
            states, grads = torch.randn(num_rows, matrix.shape[1], dtype=dtype), torch.randn(num_rows, matrix.shape[0], dtype=dtype)
            runs.append((matrix, states, grads, torch.empty_like(grads), torch.empty_like(states), torch.empty_like(matrix)))

    def run_matmuls() -> float:
        for matrix, states, grads, forward, grad_states, grad_matrix in runs:
            torch.mm(states, matrix.T, out=forward)
            torch.mm(grads, matrix, out=grad_states)
            torch.mm(grads.T, states, out=grad_matrix)
        return 0.0

    return run_matmuls


def make_train_step(model: nn.Module, loss: Callable[[], Tensor], autocast: bool, device: str = "cpu") -> Callable[[], float]:
    """Return a training step: forward, backward, clipping and fused AdamW.

    It returns the loss and so waits for it.
    """
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def train_step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.item()

    return train_step
