"""Test that a model predicts each token from earlier tokens only.

Shapes: B sequences, T positions, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder, PlotSeries
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import equal_length_sequences

OFFSETS = (-1, 0, 1, 2, 3)  # target positions relative to the input; 1 is the next token


@dataclass(frozen=True)
class CausalityConfig:
    """Configure the causality probes."""

    num_positions: int = 8  # positions of a window that are tested
    num_tokens: int = 4096  # random tokens, and tokens of documents, that are evaluated

    def __post_init__(self) -> None:
        for name, value in (("num_positions", self.num_positions), ("num_tokens", self.num_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")


def causality_probes(config: CausalityConfig) -> Mapping[str, Probe]:
    """Return the causality probes by name."""
    needs = frozenset({"next_token_logits"})
    return {
        "causality": Probe(
            lambda context, metrics: future_perturbation(context, metrics, config.num_positions),
            needs,
            {
                "max_past_change": Check("< 1e-3", "logits depend on later tokens: check the attention mask"),
                "min_present_change": Check("> 1e-3", "the model ignores its input, so that the causality test proves nothing"),
            },
        ),
        "prefix_consistency": Probe(
            lambda context, metrics: prefix_consistency(context, metrics, config.num_positions),
            needs,
            {"max_diff": Check("< 1e-3", "the loss of a target depends on later tokens: check the attention mask")},
        ),
        "target_shift": Probe(
            lambda context, metrics: target_shift(context, metrics, config.num_tokens),
            needs,
            {"best_offset": Check("== 1", "the model predicts another token than the next one: check the offset of the targets")},
        ),
        "random_tokens": Probe(
            lambda context, metrics: random_token_loss(context, metrics, config.num_tokens),
            needs,
            {"z_score": Check(">= -4", "the loss on random tokens is below ln(vocab_size): the model sees its targets")},
        ),
    }


@torch.inference_mode()
def future_perturbation(context: EvalContext, metrics: MetricRecorder, num_positions: int) -> None:
    """Replace tokens and compare the logits at earlier and later positions.

    One token, and all tokens from a position on, are replaced: earlier logits must not change, later ones must.
    """
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
        "num_positions", len(cut_positions), "positions", "Positions of a window of random tokens from which tokens were replaced"
    )
    metrics.add_measurement(
        "max_past_change",
        max_past_change,
        "logits",
        "Largest change of a logit at a position before the replaced token: 0 for a causal model",
    )
    description = (
        "Smallest, over positions, of the largest logit change at or after the replaced token: 0 if the model ignores its input"
    )
    metrics.add_measurement("min_present_change", min_present_change, "logits", description)


@torch.inference_mode()
def prefix_consistency(context: EvalContext, metrics: MetricRecorder, num_positions: int) -> None:
    """Compare the losses of targets in a full window and after their prefix alone."""
    tokens_T = equal_length_sequences(context, context.max_seq_len)[0]
    full_TV = context.logits(context.model, tokens_T[None, :-1])[0].float().log_softmax(-1)
    sampled_positions = [0, *_evenly_spaced_positions(len(tokens_T) - 1, num_positions)]
    max_diff = 0.0
    for position in sampled_positions:
        prefix_V = context.logits(context.model, tokens_T[None, : position + 1])[0, -1].float().log_softmax(-1)
        target = int(tokens_T[position + 1])
        max_diff = max(max_diff, abs(float(full_TV[position, target] - prefix_V[target])))
    metrics.add_count(
        "num_positions", len(sampled_positions), "positions", "Targets of a document whose loss was computed in both ways"
    )
    description = (
        "Largest difference between the loss of a target in its full window and after its prefix alone: 0 for a causal model"
    )
    metrics.add_measurement("max_diff", max_diff, "nats", description)


@torch.inference_mode()
def target_shift(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """Measure at which offset from the input the best predicted token is.

    It must be the next one, not the input itself or a later one.
    """
    tokens_BT = equal_length_sequences(context, num_tokens)
    log_BTV = context.logits(context.model, tokens_BT[:, :-1]).float().log_softmax(-1)
    first, last = -min(OFFSETS), tokens_BT.shape[1] - max(OFFSETS)  # positions at which every offset exists
    if last <= first:
        raise ValueError(f"no document has more than {max(OFFSETS) - min(OFFSETS)} tokens")
    nats = {}
    for offset in OFFSETS:
        targets_BT1 = tokens_BT[:, first + offset : last + offset].unsqueeze(-1)
        nats[offset] = -float(log_BTV[:, first:last].gather(-1, targets_BT1).mean())
    best_offset = min(nats, key=lambda offset: nats[offset])
    best_other = min(loss for offset, loss in nats.items() if offset != 1)
    metrics.add_measurement(
        "best_offset", best_offset, "tokens", "Offset of the token that the model predicts best, relative to the input: must be 1"
    )
    metrics.add_measurement(
        "margin", best_other - nats[1], "nats/token", "Smallest loss at another offset than 1 minus the loss of the next token"
    )
    description = "Mean loss if the token at this offset from the input is the target"
    line = {"model": [nats[offset] for offset in OFFSETS]}
    metrics.series.append(
        PlotSeries("loss_by_offset", "line", description, "offset (tokens)", "loss (nats/token)", list(OFFSETS), line)
    )


@torch.inference_mode()
def random_token_loss(context: EvalContext, metrics: MetricRecorder, num_tokens: int) -> None:
    """Measure the loss on uniformly random tokens.

    An expected loss below ln V means that the model sees its targets.
    """
    vocab_size, seq_len = context.tokens.vocab_size, context.max_seq_len
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "random floor"))
    tokens_BT = torch.randint(vocab_size, (math.ceil(num_tokens / seq_len), seq_len + 1), generator=generator).to(context.device)
    logits_BTV = context.logits(context.model, tokens_BT[:, :-1]).float()
    nats = F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="none").double()
    excess, standard_error = float(nats.mean()) - math.log(vocab_size), float(nats.std() / math.sqrt(len(nats)))
    metrics.add_measurement("loss", float(nats.mean()), "nats/token", "Mean loss on uniformly random tokens")
    metrics.add_count(
        "uniform_loss", math.log(vocab_size), "nats/token", "ln(vocab_size): lowest expected loss on uniformly random tokens"
    )
    metrics.add_measurement(
        "excess_loss", excess, "nats/token", "Loss on uniformly random tokens minus ln(vocab_size): below 0 only by chance"
    )
    metrics.add_measurement(
        "standard_error", standard_error, "nats/token", "Standard error over tokens of the mean loss on random tokens"
    )
    metrics.add_measurement(
        "z_score",
        excess / max(standard_error, 1e-9),
        "standard errors",
        "Loss on uniformly random tokens minus ln(vocab_size), in standard errors",
    )


def _evenly_spaced_positions(seq_len: int, max_positions: int) -> list[int]:
    """Return at most `max_positions` evenly spaced positions.

    The first is 1 and the last seq_len - 1. ValueError below two tokens.
    """
    if seq_len < 2:
        raise ValueError(f"seq_len must be >= 2 to have a future token, got {seq_len}")
    return sorted({int(x) for x in torch.linspace(1, seq_len - 1, max(max_positions, 2)).round()})
