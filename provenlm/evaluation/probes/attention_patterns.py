"""Plot attention weights and score attention heads.

The weights are recomputed from the actual queries and keys of each layer. `recompute_max_diff` compares the recomputed output
with the output of the layer, so that the plots are known to describe this model.

Shapes: B sequences, T query positions, S key positions, N heads, L tokens of a repeated half, K tokens, D hidden, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import AuditTable, Check, MetricRecorder, PlotSeries
from provenlm.evaluation.confidence import record_proportion
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention

NUM_SEQUENCES, MAX_REPEAT_LEN = 16, 32
MAX_PLOT_TOKENS = 16  # tokens of a prompt in a plot
NUM_COPYING_TOKENS = 128  # tokens for which copying is scored
HEAD_METRICS = {"previous": "prev_token_head", "same": "same_token_head", "induction": "induction_head"}


@dataclass(frozen=True)
class AttentionCapture:
    """Hold the attention weights of one layer on one batch.

    `max_diff` is the largest difference of recomputed and actual output, relative to the largest output.
    """

    weights_BNTS: Tensor
    max_diff: float


def attention_probe(prompts: Sequence[str]) -> Probe:
    """Return the probe that plots attention and scores the heads.

    Plots show `prompts` and repeated random tokens; heads are scored on the latter.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        tokens_BT, repeat_len = _repeated_sequences(context)
        captures, logits_BTV = capture_attention(context, tokens_BT)
        description = (
            "Largest difference between the output of an attention layer and the output recomputed from its attention weights, "
            "relative to the largest output"
        )
        metrics.add_measurement("recompute_max_diff", max(layer.max_diff for layer in captures), "ratio", description)
        _record_heads(metrics, captures, repeat_len)
        _record_in_context(metrics, context, tokens_BT, logits_BTV, repeat_len)
        for index, text in enumerate(prompts, 1):
            ids = context.tokenizer.encode_prompt(text)[:MAX_PLOT_TOKENS]
            if len(ids) > 1:
                plot_BT = torch.tensor([ids], device=context.device)
                label = f"the prompt {context.tokenizer.describe(ids)!r}"
                metrics.series.append(attention_heatmap(f"prompt_{index}", capture_attention(context, plot_BT)[0], label))
        plot_len = min(repeat_len, MAX_PLOT_TOKENS // 2)
        plot_BT = torch.cat([tokens_BT[:1, :plot_len], tokens_BT[:1, :plot_len]], 1)
        metrics.series.append(
            attention_heatmap("repeated", capture_attention(context, plot_BT)[0], f"{plot_len} random tokens, twice")
        )

    hint = "the attention plots do not describe this model: compare its attention layer with the recomputation"
    return Probe(probe, frozenset({"next_token_logits", "attention_layers"}), {"recompute_max_diff": Check("< 1e-4", hint)})


@torch.inference_mode()
def capture_attention(context: EvalContext, tokens_BT: Tensor) -> tuple[list[AttentionCapture], Tensor]:
    """Return the attention weights of each layer, in order, and the logits_BTV."""
    captures: list[AttentionCapture] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...], output_BTD: Tensor) -> None:
        assert isinstance(module, Attention)
        captures.append(_recompute(module, inputs[0], inputs[1], output_BTD))

    layers = [module for module in context.model.modules() if isinstance(module, Attention)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        logits_BTV = context.logits(context.model, tokens_BT)
    finally:
        for handle in handles:
            handle.remove()
    return captures, logits_BTV.float()


def _recompute(layer: Attention, hidden_BTD: Tensor, angles: rotary.RopeCache | None, output_BTD: Tensor) -> AttentionCapture:
    """Compute causal attention by its definition from the inputs of `layer`."""
    batch, seq_len, _ = hidden_BTD.shape
    query_BNTH, key_BNTH, value_BNTH = (
        projection(hidden_BTD).view(batch, seq_len, -1, layer.head_dim).transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    if angles is not None:
        query_BNTH, key_BNTH = rotary.apply_rotary_emb(query_BNTH, angles), rotary.apply_rotary_emb(key_BNTH, angles)
    group_size = query_BNTH.shape[1] // key_BNTH.shape[1]
    key_BNTH, value_BNTH = (tensor.repeat_interleave(group_size, 1) for tensor in (key_BNTH, value_BNTH))
    scores_BNTS = query_BNTH @ key_BNTH.transpose(-1, -2) / layer.head_dim**0.5
    future_TS = torch.ones(seq_len, seq_len, dtype=torch.bool, device=hidden_BTD.device).triu(1)
    weights_BNTS = scores_BNTS.masked_fill(future_TS, float("-inf")).softmax(-1)
    expected_BTD = layer.o_proj((weights_BNTS @ value_BNTH).transpose(1, 2).flatten(2))
    max_abs = float(output_BTD.abs().max().clamp_min(1e-30))
    return AttentionCapture(weights_BNTS.float(), float((expected_BTD - output_BTD).abs().max()) / max_abs)


def attention_heatmap(name: str, captures: Sequence[AttentionCapture], data_label: str) -> PlotSeries:
    """Return a heatmap of the first sequence for each head.

    Row t holds the weights of query t.
    """
    seq_len = captures[0].weights_BNTS.shape[-1]
    lines = {
        f"layer {layer}, head {head}": [round(value, 2) for value in weights_TS.flatten().tolist()]
        for layer, capture in enumerate(captures)
        for head, weights_TS in enumerate(capture.weights_BNTS[0])
    }
    description = f"Attention weights by layer and head on {data_label}"
    return PlotSeries(name, "heatmap", description, "key token", "query token", [float(n) for n in range(seq_len)], lines)


def _repeated_sequences(context: EvalContext) -> tuple[Tensor, int]:
    """Return tokens_BT of random tokens that occur twice, and half their length.

    ValueError below two tokens per half.
    """
    regular_ids = sorted(set(range(context.tokens.vocab_size)) - set(context.tokens.special_tokens.values()))
    repeat_len = min(context.max_seq_len // 2, MAX_REPEAT_LEN, len(regular_ids))
    if repeat_len < 2:
        raise ValueError(f"sequences must have at least 4 tokens to repeat 2, got max_seq_len {context.max_seq_len}")
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "repeated"))
    sequences_BL = torch.stack(
        [
            torch.tensor(regular_ids)[torch.randperm(len(regular_ids), generator=generator)[:repeat_len]]
            for _ in range(NUM_SEQUENCES)
        ]
    )
    return torch.cat([sequences_BL, sequences_BL], 1).to(context.device), repeat_len


def head_scores(weights_BNTS: Tensor, repeat_len: int) -> dict[str, Tensor]:
    """Return three scores of each head, (N,).

    They are mean weights in the second half of repeated sequences. `previous`: on the previous token; `same`: on the first
    occurrence of the same token; `induction`: on the token that followed that occurrence (Olsson et al. 2022, arXiv 2209.11895).
    """
    positions = torch.arange(repeat_len, 2 * repeat_len - 1, device=weights_BNTS.device)
    target_positions = {"previous": positions - 1, "same": positions - repeat_len, "induction": positions - repeat_len + 1}
    return {name: weights_BNTS[:, :, positions, target].mean((0, 2)) for name, target in target_positions.items()}


def _record_heads(metrics: MetricRecorder, captures: Sequence[AttentionCapture], repeat_len: int) -> None:
    by_layer = [head_scores(layer.weights_BNTS, repeat_len) for layer in captures]
    chance = float((1 / torch.arange(repeat_len + 1, 2 * repeat_len, dtype=torch.float64)).mean())
    labels = {
        "previous": "the previous token",
        "same": "the first occurrence of the same token",
        "induction": "the token that followed the first occurrence of the same token",
    }
    rows = []
    for layer, layer_scores in enumerate(by_layer):
        for head in range(captures[layer].weights_BNTS.shape[1]):
            rows.append((layer, head, *(round(float(layer_scores[name][head]), 4) for name in labels)))
    for column, (name, label) in enumerate(labels.items(), 2):
        best = max(rows, key=lambda row: row[column])
        description = f"Largest mean attention of a head to {label} on repeated random tokens: layer {best[0]}, head {best[1]}"
        metrics.add_measurement(HEAD_METRICS[name], best[column], "fraction", description)
    metrics.add_count("uniform_attention_weight", chance, "fraction", "Mean weight on one token of a head that attends uniformly")
    columns = ("layer", "head", "previous token", "same token", "induction")
    metrics.tables.append(AuditTable("heads", "Scores of each attention head on repeated random tokens", columns, rows))


def copying_probe() -> Probe:
    """Return the probe that scores how far each attention head copies its input token."""

    @torch.inference_mode()
    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        rows = []
        for layer, scores_N in enumerate(_copying_by_layer(context)):
            rows += [(layer, head, round(score, 4)) for head, score in enumerate(scores_N.tolist())]
        best = max(rows, key=lambda row: row[2])
        description = (
            "Largest copying score of a head: mean fraction of the vocabulary whose logits a token raises less than its own logit, "
            f"through the values of the head and the LM head alone; chance is 0.5: layer {best[0]}, head {best[1]}"
        )
        metrics.add_measurement("max_score", best[2], "fraction", description)
        metrics.tables.append(AuditTable("heads", "Copying score of each attention head", ("layer", "head", "copying"), rows))

    return Probe(probe, frozenset({"decoder_blocks"}))


def has_decoder_blocks(model: nn.Module) -> bool:
    """Return whether a model has the parts that the copying scores use."""
    if not all(hasattr(model, name) for name in ("embed_tokens", "lm_head_weight", "layers")):
        return False
    return all(isinstance(getattr(block, "self_attn", None), Attention) for block in model.layers)  # type: ignore[union-attr]


def _copying_by_layer(context: EvalContext) -> list[Tensor]:
    """Return the copying scores (N,) of each layer."""
    model: Any = context.model
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "copying"))
    ids_K = torch.randperm(context.tokens.vocab_size, generator=generator)[:NUM_COPYING_TOKENS].to(context.device)
    return [
        copying_scores(block.self_attn, block.input_layernorm(model.embed_tokens(ids_K)), model.lm_head_weight, ids_K)
        for block in model.layers
    ]


def copying_scores(layer: Attention, states_KD: Tensor, head_VD: Tensor, ids_K: Tensor) -> Tensor:
    """Return the copying score of each head, (N,).

    It is the mean fraction of other tokens whose logit the head raises less than that of `ids_K`.
    """
    num_heads = layer.q_proj.out_features // layer.head_dim
    value_KNH = layer.v_proj(states_KD).view(len(ids_K), -1, layer.head_dim)
    value_KNH = value_KNH.repeat_interleave(num_heads // value_KNH.shape[1], 1)
    out_DNH = layer.o_proj.weight.view(-1, num_heads, layer.head_dim)
    fractions = []
    for head in range(num_heads):
        logits_KV = F.linear(value_KNH[:, head] @ out_DNH[:, head].T, head_VD)
        own_logit_K1 = logits_KV.gather(1, ids_K[:, None])
        fractions.append(((logits_KV < own_logit_K1).sum(1) / (logits_KV.shape[1] - 1)).mean())
    return torch.stack(fractions)


def _record_in_context(
    metrics: MetricRecorder, context: EvalContext, tokens_BT: Tensor, logits_BTV: Tensor, repeat_len: int
) -> None:
    """Record how well the whole model predicts the second half of repeated sequences."""
    targets_BT = tokens_BT[:, 1:]
    nats_BT = F.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), targets_BT, reduction="none")
    first_nats, second_nats = nats_BT[:, : repeat_len - 1], nats_BT[:, repeat_len:]
    description = "Loss on random tokens at their first occurrence minus loss at their repetition"
    metrics.add_measurement("in_context.repeat_gain", float(first_nats.mean() - second_nats.mean()), "nats/token", description)
    correct_BT = logits_BTV[:, repeat_len:-1].argmax(-1) == targets_BT[:, repeat_len:]
    description = "fraction of repeated random tokens that are the most probable next token at their repetition"
    record_proportion(
        metrics,
        "in_context.repeat_accuracy",
        int(correct_BT.sum()),
        correct_BT.numel(),
        1.0,
        1 / context.tokens.vocab_size,
        description,
    )
