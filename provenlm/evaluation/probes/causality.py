"""A net in, figures out that betray one that sees what it is asked for.

B rows of a batch, T positions, V vocabulary, P positions that are looked at.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder, PlotSeries
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import equal_length_sequences

OFFSETS = (-1, 0, 1, 2, 3)


@dataclass(frozen=True)
class CausalityConfig:
    """The `leakage` section of validate, typed."""

    num_positions: int  # positions of a window at which past and future are parted
    num_tokens: int  # random tokens, and tokens of documents, that are looked at

    def __post_init__(self) -> None:
        if self.num_positions < 1 or self.num_tokens < 1:
            raise ValueError("positions and tokens must be at least 1")


def causality_probes(config: CausalityConfig) -> Mapping[str, Probe]:
    return {
        "leakage.causal": lambda context, metrics: future_perturbation(context, metrics, config.num_positions),
        "leakage.prefixes": lambda context, metrics: prefix_consistency(context, metrics, config.num_positions),
        "leakage.shift": lambda context, metrics: target_shift(context, metrics, config.num_tokens),
        "leakage.random": lambda context, metrics: random_token_loss(context, metrics, config.num_tokens),
    }


@torch.inference_mode()
def future_perturbation(context: EvalContext, metrics: MetricRecorder, num_positions: int) -> None:
    """Replace one token, and all tokens, from a position on: no logit before it may move, the ones from it on must."""
    seq_len, vocab_size = context.max_seq_len, context.tokens.vocab_size
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "causal"))
    tokens_T = torch.randint(vocab_size, (seq_len,), generator=generator)
    replaced_T = (tokens_T + torch.randint(1, vocab_size, (seq_len,), generator=generator)) % vocab_size  # differs everywhere
    max_past_change, min_present_change = 0.0, math.inf
    cut_positions = _evenly_spaced_positions(seq_len, num_positions)
    for position in cut_positions:
        single_T, suffix_T = tokens_T.clone(), tokens_T.clone()
        single_T[position], suffix_T[position:] = replaced_T[position], replaced_T[position:]
        tokens_BT = torch.stack([tokens_T, single_T, suffix_T]).to(context.device)
        logits_BTV = context.logits(context.model, tokens_BT).float()
        change_T = (logits_BTV[1:] - logits_BTV[:1]).abs().amax(dim=(0, 2))
        max_past_change = max(max_past_change, float(change_T[:position].max()))
        min_present_change = min(min_present_change, float(change_T[position:].max()))
    metrics.add_count(
        "positions", len(cut_positions), "positions", "positions of a window of random tokens at which the future was replaced"
    )
    metrics.add_measurement(
        "largest_change", max_past_change, "logits", "largest change of a logit before a replaced token: nought for a causal net"
    )
    description = "smallest, over positions, of the largest change from the replaced token on: nought if the net ignores its input"
    metrics.add_measurement("own_change", min_present_change, "logits", description)


@torch.inference_mode()
def prefix_consistency(context: EvalContext, metrics: MetricRecorder, num_positions: int) -> None:
    """The loss of a target within a whole window equals its loss when nothing but its prefix exists."""
    tokens_T = equal_length_sequences(context, context.max_seq_len)[0]
    full_TV = context.logits(context.model, tokens_T[None, :-1])[0].float().log_softmax(-1)
    sampled_positions = [0, *_evenly_spaced_positions(len(tokens_T) - 1, num_positions)]
    max_diff = 0.0
    for position in sampled_positions:
        prefix_V = context.logits(context.model, tokens_T[None, : position + 1])[0, -1].float().log_softmax(-1)
        target = int(tokens_T[position + 1])
        max_diff = max(max_diff, abs(float(full_TV[position, target] - prefix_V[target])))
    metrics.add_count("positions", len(sampled_positions), "positions", "targets of a document whose loss was computed twice")
    description = "largest difference of a target's loss within its window and from its prefix alone: nought for a causal net"
    metrics.add_measurement("largest_difference", max_diff, "nats", description)


@torch.inference_mode()
def target_shift(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """The token that a position predicts best must be the next one: neither itself nor the one after next."""
    tokens_BT = equal_length_sequences(context, num_tokens)
    log_BTV = context.logits(context.model, tokens_BT[:, :-1]).float().log_softmax(-1)
    first, last = -min(OFFSETS), tokens_BT.shape[1] - max(OFFSETS)  # places where the token at every distance exists
    if last <= first:
        raise ValueError(f"no document of more than {max(OFFSETS) - min(OFFSETS)} tokens to look at")
    nats = {}
    for offset in OFFSETS:
        targets_BT1 = tokens_BT[:, first + offset : last + offset].unsqueeze(-1)
        nats[offset] = -float(log_BTV[:, first:last].gather(-1, targets_BT1).mean())
    best_offset = min(nats, key=lambda offset: nats[offset])
    best_other = min(loss for offset, loss in nats.items() if offset != 1)
    metrics.add_measurement(
        "best", best_offset, "tokens", "how far ahead of a position the token lies that the net predicts best there: one"
    )
    metrics.add_measurement(
        "advantage", best_other - nats[1], "nats/token", "loss at the best other distance minus the loss of the next token"
    )
    description = "mean loss when the token at this distance from the input counts as the target"
    line = {"net": [nats[offset] for offset in OFFSETS]}
    metrics.series.append(
        PlotSeries("by_distance", "lines", description, "distance (tokens)", "loss (nats/token)", list(OFFSETS), line)
    )


@torch.inference_mode()
def random_token_loss(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """On uniformly random tokens nothing predicts better than ln V on average: what does has seen its targets."""
    vocab_size, seq_len = context.tokens.vocab_size, context.max_seq_len
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "random floor"))
    tokens_BT = torch.randint(vocab_size, (math.ceil(num_tokens / seq_len), seq_len + 1), generator=generator).to(context.device)
    logits_BTV = context.logits(context.model, tokens_BT[:, :-1]).float()
    nats = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none").double()
    excess, standard_error = float(nats.mean()) - math.log(vocab_size), float(nats.std() / math.sqrt(len(nats)))
    metrics.add_measurement("loss", float(nats.mean()), "nats/token", "mean loss on uniformly random tokens")
    metrics.add_count(
        "floor", math.log(vocab_size), "nats/token", "ln of the vocabulary: least expected loss on uniformly random tokens"
    )
    metrics.add_measurement(
        "excess", excess, "nats/token", "loss on random tokens minus ln of the vocabulary: not below nought but by chance"
    )
    metrics.add_measurement("standard_error", standard_error, "nats/token", "standard error of that mean over tokens")
    metrics.add_measurement(
        "deviation", excess / max(standard_error, 1e-9), "standard errors", "the excess in standard errors: not far below nought"
    )


def _evenly_spaced_positions(seq_len: int, max_positions: int) -> list[int]:
    """At most `positions` places from 1 to length - 1, both ends among them, evenly spread. ValueError for a window of one."""
    if seq_len < 2:
        raise ValueError("a window of one token has no future to replace")
    return sorted({int(x) for x in torch.linspace(1, seq_len - 1, max(max_positions, 2)).round()})
