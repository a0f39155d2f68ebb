"""Compare implementations that must agree.

They are Hugging Face, the key-value cache and the reference loop over experts. Shapes: B sequences, T positions, N tokens, V
vocabulary, D hidden, K experts per token.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes.hf_reference import hf_reference
from provenlm.evaluation.token_loss import equal_length_sequences
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.moe_experts import Experts, experts_reference


def parity_probes(num_tokens: int) -> Mapping[str, Probe]:
    """Return the parity probes by name.

    Each evaluates about `num_tokens` tokens of documents.
    """
    differs_from_hf = "the model is not the architecture that it is exported as: compare it with transformers layer by layer"
    return {
        "parity.hf": Probe(
            lambda context, metrics: parity_vs_hf(context, metrics, num_tokens),
            frozenset({"next_token_logits", "hf_export", "hf_format"}),
            {"max_abs_diff": Check("< 1e-3", differs_from_hf)},
        ),
        "parity.kv_cache": Probe(
            lambda context, metrics: parity_with_cache(context, metrics, num_tokens),
            frozenset({"next_token_logits", "kv_cache"}),
            {"max_abs_diff": Check("< 1e-3", "generation with the key-value cache differs from the forward pass")},
        ),
        "parity.experts": Probe(
            lambda context, metrics: parity_of_experts(context, metrics, num_tokens),
            frozenset({"next_token_logits", "expert_layers"}),
            {"max_relative_diff": Check("< 1e-4", "the grouped expert computation differs from the reference loop over experts")},
        ),
    }


@torch.inference_mode()
def parity_vs_hf(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """Compare the logits with those of the Hugging Face implementation."""
    hf_model = hf_reference(context)
    tokens_BT = equal_length_sequences(context, num_tokens)[:, :-1]
    ours_BTV, theirs_BTV = context.logits(context.model, tokens_BT).float(), hf_model.logits(tokens_BT).float()
    description = f"Largest logit difference from {hf_model.class_name} of transformers with the same weights, on documents"
    metrics.add_count(
        "num_tokens", tokens_BT.numel(), "tokens", "Document tokens at which all logits were compared with transformers"
    )
    metrics.add_measurement("max_abs_diff", _max_abs_diff(ours_BTV, theirs_BTV), "logits", description)
    top1_agreement = float((ours_BTV.argmax(-1) == theirs_BTV.argmax(-1)).float().mean())
    description = "Fraction of document tokens at which the model and transformers have the same most probable next token"
    metrics.add_measurement("top1_agreement", top1_agreement, "fraction", description)


@torch.inference_mode()
def parity_with_cache(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """Compare the logits with a key-value cache with those of one forward pass."""
    assert context.logits_with_cache is not None  # the capability is a need of this probe
    tokens_BT = equal_length_sequences(context, min(num_tokens, context.max_seq_len))[:1, :-1]
    full_BTV = context.logits(context.model, tokens_BT).float()
    seq_len = tokens_BT.shape[1]
    kv_cache, position = KVCache(seq_len), 0
    chunks = []
    for chunk_len in (seq_len - seq_len // 2, *[1] * (seq_len // 2)):
        kv_cache.set_positions(torch.arange(position, position + chunk_len, device=context.device)[None])
        chunks.append(context.logits_with_cache(context.model, tokens_BT[:, position : position + chunk_len], kv_cache).float())
        position += chunk_len
    metrics.add_count(
        "num_positions", seq_len, "positions", "Positions compared with and without cache; the second half one by one"
    )
    description = "Largest logit difference between generation with a key-value cache and one forward pass"
    metrics.add_measurement("max_abs_diff", _max_abs_diff(torch.cat(chunks, 1), full_BTV), "logits", description)


@torch.inference_mode()
def parity_of_experts(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """Compare the grouped expert computation with the reference loop over experts."""
    max_diff, layers = 0.0, [module for module in context.model.modules() if isinstance(module, Experts)]

    def hook(module: nn.Module, inputs: tuple[Any, ...], output_ND: Tensor) -> None:
        nonlocal max_diff
        assert isinstance(module, Experts)
        states_ND, expert_ids_NK, weights_NK = inputs
        expected_ND = experts_reference(states_ND, expert_ids_NK, weights_NK, module.gate_up_proj, module.down_proj)
        max_diff = max(max_diff, _max_abs_diff(output_ND, expected_ND) / float(expected_ND.abs().max().clamp_min(1e-30)))

    handles = [module.register_forward_hook(hook) for module in layers]
    try:
        context.logits(context.model, equal_length_sequences(context, num_tokens)[:, :-1])
    finally:
        for handle in handles:
            handle.remove()
    metrics.add_count("num_layers", len(layers), "layers", "Expert layers compared with the reference loop over experts")
    description = (
        "Largest output difference between grouped experts and the reference loop over experts, relative to the largest output"
    )
    metrics.add_measurement("max_relative_diff", max_diff, "ratio", description)


def _max_abs_diff(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
