"""A net in; out, how far what must give the same logits is apart: the reference, a cache, the loop over experts.

B rows, T positions, N tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes.hf_reference import hf_reference
from provenlm.evaluation.token_loss import equal_length_sequences
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.moe_experts import Experts, experts_reference

NOT_APPLICABLE = "not applicable"


def parity_probes(num_tokens: int) -> Mapping[str, Probe]:
    """`tokens` of documents are looked at, by each."""
    return {
        "equivalence.reference": lambda context, metrics: parity_vs_hf(context, metrics, num_tokens),
        "equivalence.cache": lambda context, metrics: parity_with_cache(context, metrics, num_tokens),
        "equivalence.experts": lambda context, metrics: parity_of_experts(context, metrics, num_tokens),
    }


@torch.inference_mode()
def parity_vs_hf(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """Our weights in Hugging Face's own code give our logits."""
    hf_model = hf_reference(context)
    if isinstance(hf_model, str):
        metrics.add_count("largest_difference", NOT_APPLICABLE, "logits", hf_model)
        return
    tokens_BT = equal_length_sequences(context, num_tokens)[:, :-1]
    ours_BTV, theirs_BTV = context.logits(context.model, tokens_BT).float(), hf_model.logits(tokens_BT).float()
    description = (
        f"largest difference of a logit from that of {hf_model.class_name} of transformers with the same weights, on documents"
    )
    metrics.add_count(
        "tokens", tokens_BT.numel(), "tokens", "tokens of documents whose logits were compared, the whole vocabulary each"
    )
    metrics.add_measurement("largest_difference", _max_abs_diff(ours_BTV, theirs_BTV), "logits", description)
    top1_agreement = float((ours_BTV.argmax(-1) == theirs_BTV.argmax(-1)).float().mean())
    metrics.add_measurement("same_choice", top1_agreement, "share", "of these, those with the same most probable next token")


@torch.inference_mode()
def parity_with_cache(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """A row read half at once and then token by token, keys and values kept, gives the logits of the row read whole."""
    if context.logits_with_cache is None:
        metrics.add_count("largest_difference", NOT_APPLICABLE, "logits", "the net keeps no keys and values")
        return
    tokens_BT = equal_length_sequences(context, min(num_tokens, context.max_seq_len))[:1, :-1]
    full_BTV = context.logits(context.model, tokens_BT).float()
    seq_len = tokens_BT.shape[1]
    kv_cache, position = KVCache(seq_len), 0
    chunks = []
    for chunk_len in (seq_len - seq_len // 2, *[1] * (seq_len // 2)):
        kv_cache.set_positions(torch.arange(position, position + chunk_len, device=context.device)[None])
        chunks.append(context.logits_with_cache(context.model, tokens_BT[:, position : position + chunk_len], kv_cache).float())
        position += chunk_len
    metrics.add_count("positions", seq_len, "positions", "of a document's row, the second half of them read one by one")
    description = "largest difference of a logit with keys and values kept from the same without"
    metrics.add_measurement("largest_difference", _max_abs_diff(torch.cat(chunks, 1), full_BTV), "logits", description)


@torch.inference_mode()
def parity_of_experts(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """What the experts say by the fast way that training uses, beside the definition, a loop over experts."""
    max_diff, layers = 0.0, [module for module in context.model.modules() if isinstance(module, Experts)]
    if not layers:
        metrics.add_count("largest_difference", NOT_APPLICABLE, "ratio", "the net has no experts")
        return

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
    metrics.add_count("layers", len(layers), "layers", "layers of experts that were looked at, on documents")
    description = "largest difference of what experts say by the fast way from the loop over experts, over the largest value"
    metrics.add_measurement("largest_difference", max_diff, "ratio", description)


def _max_abs_diff(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
