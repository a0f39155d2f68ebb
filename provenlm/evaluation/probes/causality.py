"""A net in, figures out that betray one that sees what it is asked for.

B rows of a batch, T positions, V vocabulary, P positions that are looked at.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import Recorder, Series
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.token_loss import stretches

SHIFTS = (-1, 0, 1, 2, 3)


@dataclass(frozen=True)
class Settings:
    """The `leakage` section of validate, typed."""

    positions: int  # positions of a window at which past and future are parted
    tokens: int  # random tokens, and tokens of documents, that are looked at

    def __post_init__(self) -> None:
        if self.positions < 1 or self.tokens < 1:
            raise ValueError("positions and tokens must be at least 1")


def probes(settings: Settings) -> Mapping[str, Probe]:
    return {
        "leakage.causal": lambda subject, figures: causal(subject, figures, settings.positions),
        "leakage.prefixes": lambda subject, figures: prefixes(subject, figures, settings.positions),
        "leakage.shift": lambda subject, figures: shift(subject, figures, settings.tokens),
        "leakage.random": lambda subject, figures: random_floor(subject, figures, settings.tokens),
    }


@torch.inference_mode()
def causal(subject: Subject, figures: Recorder, positions: int) -> None:
    """Replace one token, and all tokens, from a position on: no logit before it may move, the ones from it on must."""
    length, size = subject.length, subject.tokens.vocabulary
    generator = torch.Generator().manual_seed(rng.seed_of(subject.seed, "causal"))
    tokens_T = torch.randint(size, (length,), generator=generator)
    moved_T = (tokens_T + torch.randint(1, size, (length,), generator=generator)) % size  # differs everywhere
    past, own = 0.0, math.inf
    places = _places(length, positions)
    for place in places:
        one_T, all_T = tokens_T.clone(), tokens_T.clone()
        one_T[place], all_T[place:] = moved_T[place], moved_T[place:]
        rows_BT = torch.stack([tokens_T, one_T, all_T]).to(subject.device)
        logits_BTV = subject.logits(subject.model, rows_BT).float()
        change_T = (logits_BTV[1:] - logits_BTV[:1]).abs().amax(dim=(0, 2))
        past = max(past, float(change_T[:place].max()))
        own = min(own, float(change_T[place:].max()))
    figures.counted(
        "positions", len(places), "positions", "positions of a window of random tokens at which the future was replaced"
    )
    figures.measured("largest_change", past, "logits", "largest change of a logit before a replaced token: nought for a causal net")
    meaning = "smallest, over positions, of the largest change from the replaced token on: nought if the net ignores its input"
    figures.measured("own_change", own, "logits", meaning)


@torch.inference_mode()
def prefixes(subject: Subject, figures: Recorder, positions: int) -> None:
    """The loss of a target within a whole window equals its loss when nothing but its prefix exists."""
    row_T = stretches(subject, subject.length)[0]
    whole_TV = subject.logits(subject.model, row_T[None, :-1])[0].float().log_softmax(-1)
    places = [0, *_places(len(row_T) - 1, positions)]
    largest = 0.0
    for place in places:
        alone_V = subject.logits(subject.model, row_T[None, : place + 1])[0, -1].float().log_softmax(-1)
        target = int(row_T[place + 1])
        largest = max(largest, abs(float(whole_TV[place, target] - alone_V[target])))
    figures.counted("positions", len(places), "positions", "targets of a document whose loss was computed twice")
    meaning = "largest difference of a target's loss within its window and from its prefix alone: nought for a causal net"
    figures.measured("largest_difference", largest, "nats", meaning)


@torch.inference_mode()
def shift(subject: Subject, figures: Recorder, tokens: int) -> None:
    """The token that a position predicts best must be the next one: neither itself nor the one after next."""
    rows_BT = stretches(subject, tokens)
    log_BTV = subject.logits(subject.model, rows_BT[:, :-1]).float().log_softmax(-1)
    first, last = -min(SHIFTS), rows_BT.shape[1] - max(SHIFTS)  # places where the token at every distance exists
    if last <= first:
        raise ValueError(f"no document of more than {max(SHIFTS) - min(SHIFTS)} tokens to look at")
    nats = {}
    for moved in SHIFTS:
        wanted_BT1 = rows_BT[:, first + moved : last + moved].unsqueeze(-1)
        nats[moved] = -float(log_BTV[:, first:last].gather(-1, wanted_BT1).mean())
    best = min(nats, key=lambda moved: nats[moved])
    others = min(loss for moved, loss in nats.items() if moved != 1)
    figures.measured("best", best, "tokens", "how far ahead of a position the token lies that the net predicts best there: one")
    figures.measured(
        "advantage", others - nats[1], "nats/token", "loss at the best other distance minus the loss of the next token"
    )
    meaning = "mean loss when the token at this distance from the input counts as the target"
    line = {"net": [nats[moved] for moved in SHIFTS]}
    figures.series.append(Series("by_distance", "lines", meaning, "distance (tokens)", "loss (nats/token)", list(SHIFTS), line))


@torch.inference_mode()
def random_floor(subject: Subject, figures: Recorder, tokens: int) -> None:
    """On uniformly random tokens nothing predicts better than ln V on average: what does has seen its targets."""
    size, length = subject.tokens.vocabulary, subject.length
    generator = torch.Generator().manual_seed(rng.seed_of(subject.seed, "random floor"))
    rows_BT = torch.randint(size, (math.ceil(tokens / length), length + 1), generator=generator).to(subject.device)
    logits_BTV = subject.logits(subject.model, rows_BT[:, :-1]).float()
    nats = F.cross_entropy(logits_BTV.flatten(0, 1), rows_BT[:, 1:].flatten(), reduction="none").double()
    excess, error = float(nats.mean()) - math.log(size), float(nats.std() / math.sqrt(len(nats)))
    figures.measured("loss", float(nats.mean()), "nats/token", "mean loss on uniformly random tokens")
    figures.counted("floor", math.log(size), "nats/token", "ln of the vocabulary: least expected loss on uniformly random tokens")
    figures.measured(
        "excess", excess, "nats/token", "loss on random tokens minus ln of the vocabulary: not below nought but by chance"
    )
    figures.measured("standard_error", error, "nats/token", "standard error of that mean over tokens")
    figures.measured(
        "deviation", excess / max(error, 1e-9), "standard errors", "the excess in standard errors: not far below nought"
    )


def _places(length: int, positions: int) -> list[int]:
    """At most `positions` places from 1 to length - 1, both ends among them, evenly spread. ValueError for a window of one."""
    if length < 2:
        raise ValueError("a window of one token has no future to replace")
    return sorted({int(x) for x in torch.linspace(1, length - 1, max(positions, 2)).round()})
