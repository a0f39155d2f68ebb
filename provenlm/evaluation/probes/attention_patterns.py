"""A net with attention in; pictures of who looks at whom, and figures on heads that copy and that go on from repetitions, out.

The weights are worked out anew from the queries and keys that each layer really had; `apart` says how far what they would give is
from what the layer gave, so that the pictures are of this net and not of a formula.

Shapes: B rows, T positions, S positions looked at, N heads, L length of what is repeated, K tokens, D hidden, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.evaluation.confidence import record_proportion
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import Decoder

NUM_SEQUENCES, MAX_REPEAT_LEN = 16, 32
MAX_PLOT_TOKENS = 16  # tokens of a prompt in a picture
NUM_COPYING_TOKENS = 128  # tokens whose copying is looked at
NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class AttentionCapture:
    """One layer on one batch: `weights_BNTS`, and how far their mixture is from what the layer gave, over its largest value."""

    weights_BNTS: Tensor
    max_diff: float


def attention_probe(prompts: Sequence[str]) -> Probe:
    """Pictures on `prompts` and on tokens that are repeated; heads are scored on the latter."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        if not any(isinstance(module, Attention) for module in context.model.modules()):
            metrics.add_count("apart", NOT_APPLICABLE, "ratio", "the net has no layers of attention")
            return
        tokens_BT, repeat_len = _repeated_sequences(context)
        captures, logits_BTV = capture_attention(context, tokens_BT)
        description = "largest difference of what a layer gave from what its weights, worked out anew, would have given, over its largest value"
        metrics.add_measurement("apart", max(layer.max_diff for layer in captures), "ratio", description)
        _record_heads(metrics, context, captures, repeat_len)
        _record_in_context(metrics, context, tokens_BT, logits_BTV, repeat_len)
        for index, text in enumerate(prompts, 1):
            ids = context.tokenizer.encode_prompt(text)[:MAX_PLOT_TOKENS]
            if len(ids) > 1:
                plot_BT = torch.tensor([ids], device=context.device)
                label = f"the prompt {context.tokenizer.decode(ids).decode('utf-8', 'replace')!r}"
                metrics.series.append(attention_heatmap(f"prompt_{index}", capture_attention(context, plot_BT)[0], label))
        plot_len = min(repeat_len, MAX_PLOT_TOKENS // 2)
        plot_BT = torch.cat([tokens_BT[:1, :plot_len], tokens_BT[:1, :plot_len]], 1)
        metrics.series.append(
            attention_heatmap("repeated", capture_attention(context, plot_BT)[0], f"{plot_len} random tokens, twice")
        )

    return probe


@torch.inference_mode()
def capture_attention(context: EvalContext, tokens_BT: Tensor) -> tuple[list[AttentionCapture], Tensor]:
    """Each layer of attention, in order, on `tokens_BT`; and the net's logits_BTV."""
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
    """By the definition: softmax of queries times keys over what came before."""
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
    """A map of the first row of each head; its row t says how much token t looks at each."""
    seq_len = captures[0].weights_BNTS.shape[-1]
    lines = {
        f"layer {layer}, head {head}": [round(value, 2) for value in weights_TS.flatten().tolist()]
        for layer, capture in enumerate(captures)
        for head, weights_TS in enumerate(capture.weights_BNTS[0])
    }
    description = f"who looks at whom, by layer and head, on {data_label}"
    return PlotSeries(name, "maps", description, "token looked at", "token", [float(n) for n in range(seq_len)], lines)


def _repeated_sequences(context: EvalContext) -> tuple[Tensor, int]:
    """(rows_BT of different random tokens, twice; how many). ValueError if rows are too short to repeat two tokens."""
    regular_ids = sorted(set(range(context.tokens.vocab_size)) - set(context.tokens.special_tokens.values()))
    repeat_len = min(context.max_seq_len // 2, MAX_REPEAT_LEN, len(regular_ids))
    if repeat_len < 2:
        raise ValueError("rows of fewer than four tokens repeat nothing")
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "repeated"))
    sequences_BL = torch.stack(
        [
            torch.tensor(regular_ids)[torch.randperm(len(regular_ids), generator=generator)[:repeat_len]]
            for _ in range(NUM_SEQUENCES)
        ]
    )
    return torch.cat([sequences_BL, sequences_BL], 1).to(context.device), repeat_len


def head_scores(weights_BNTS: Tensor, repeat_len: int) -> dict[str, Tensor]:
    """For each head (N,): mean weight, in the second half of repeated rows, on the token before, on the same token's first place, and
    on the one that followed it there (an induction head: Olsson et al. 2022, arXiv 2209.11895)."""
    positions = torch.arange(repeat_len, 2 * repeat_len - 1, device=weights_BNTS.device)
    target_positions = {"previous": positions - 1, "same": positions - repeat_len, "induction": positions - repeat_len + 1}
    return {name: weights_BNTS[:, :, positions, target].mean((0, 2)) for name, target in target_positions.items()}


def _record_heads(metrics: MetricRecorder, context: EvalContext, captures: Sequence[AttentionCapture], repeat_len: int) -> None:
    by_layer = [head_scores(layer.weights_BNTS, repeat_len) for layer in captures]
    chance = float((1 / torch.arange(repeat_len + 1, 2 * repeat_len, dtype=torch.float64)).mean())
    labels = {
        "previous": "on the token before",
        "same": "on the first place of the same token",
        "induction": "on the token that followed the same token before",
    }
    layer_copying = _copying_by_layer(context)
    rows = []
    for layer, layer_scores in enumerate(by_layer):
        for head in range(captures[layer].weights_BNTS.shape[1]):
            values = [round(float(layer_scores[name][head]), 4) for name in labels]
            rows.append((layer, head, *values, round(float(layer_copying[layer][head]), 4) if layer_copying else NOT_APPLICABLE))
    for column, (name, label) in enumerate(labels.items(), 2):
        best = max(rows, key=lambda row: row[column])
        description = f"largest mean weight of a head {label}, on repeated random tokens: layer {best[0]}, head {best[1]}"
        metrics.add_measurement(f"{name}.largest", best[column], "share", description)
    metrics.add_count("chance", chance, "share", "mean weight on any one token of a head that looks at all that came before alike")
    if layer_copying:
        best = max(rows, key=lambda row: row[5])
        description = (
            "largest copying score of a head: mean share of the vocabulary whose logits a token raises less than its own, through the "
            f"head's values and the net's head alone; half is chance: layer {best[0]}, head {best[1]}"
        )
        metrics.add_measurement("copying.largest", best[5], "share", description)
    columns = ("layer", "head", "previous", "same", "induction", "copying")
    metrics.tables.append(AuditTable("heads", "each head on repeated random tokens, and how far it copies", columns, rows))


@torch.inference_mode()
def _copying_by_layer(context: EvalContext) -> list[Tensor]:
    """For each layer the copying score of each head, (N,); empty for a net whose parts we do not know."""
    model = context.model
    if not isinstance(model, Decoder):
        return []
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "copying"))
    ids_K = torch.randperm(context.tokens.vocab_size, generator=generator)[:NUM_COPYING_TOKENS].to(context.device)
    return [
        copying_scores(block.self_attn, block.input_layernorm(model.embed_tokens(ids_K)), model.lm_head_weight, ids_K)
        for block in model.layers
    ]  # type: ignore[operator,arg-type]


def copying_scores(layer: Attention, states_KD: Tensor, head_VD: Tensor, ids_K: Tensor) -> Tensor:
    """For each head (N,): over tokens `ids_K` with `states_KD`, mean share of other tokens whose logit the head raises less."""
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
    """How the net as a whole goes on from a repetition."""
    targets_BT = tokens_BT[:, 1:]
    nats_BT = F.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), targets_BT, reduction="none")
    first_nats, second_nats = nats_BT[:, : repeat_len - 1], nats_BT[:, repeat_len:]
    description = "loss on random tokens the first time minus their loss the second time: what the net takes from the repetition"
    metrics.add_measurement("repeated.gain", float(first_nats.mean() - second_nats.mean()), "nats/token", description)
    correct_BT = logits_BTV[:, repeat_len:-1].argmax(-1) == targets_BT[:, repeat_len:]
    description = "repeated random tokens that are the most probable next ones the second time"
    record_proportion(
        metrics, "repeated.right", int(correct_BT.sum()), correct_BT.numel(), 1.0, 1 / context.tokens.vocab_size, description
    )
