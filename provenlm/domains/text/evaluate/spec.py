"""What a net that learned text is asked about held-out documents: to close brackets, and to tell what goes on from what does not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.audit import Recorder
from provenlm.evaluation.confidence import record_share
from provenlm.evaluation.probe import Probe, Subject, Validating
from provenlm.evaluation.token_loss import of_rows

CLOSES = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Settings:
    """The `probes` section of a recipe on text, typed."""

    bracket_cases: int  # of each kind of bracket
    bracket_characters: int  # of text before the bracket
    pairs: int  # of passages whose continuations are swapped
    context_tokens: int
    continuation_tokens: int
    batch_tokens: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise ValueError("every number must be at least 1")


def probes(settings: Settings) -> Mapping[str, Probe]:
    return {
        "brackets": lambda subject, figures: brackets(settings, subject, figures),
        "context": lambda subject, figures: context(settings, subject, figures),
    }


def brackets(settings: Settings, subject: Subject, figures: Recorder) -> None:
    """Held-out text up to a closing bracket whose opening one is in sight: the right bracket must be the likeliest of the kinds.

    As many cases of each kind, so that always naming the commonest is no better than chance (minimal pairs as in Warstadt et al.
    2020, arXiv 1912.00582).
    """
    found: dict[str, list[list[list[int]]]] = {close: [] for close in CLOSES.values()}
    for text in _texts(subject):
        for before, close in closings(text, settings.bracket_characters):
            rows = [subject.codec.prompt(before + choice) for choice in found]
            if max(map(len, rows)) <= subject.length + 1:
                found[close].append(rows)
    many = min(settings.bracket_cases, *map(len, found.values()))
    figures.counted("each", many, "cases", "cases of each kind of bracket in held-out text")
    if not many:
        return
    draw = rng.generator(subject.seed, "brackets")
    rows = [row for cases in found.values() for n in draw.permutation(len(cases))[:many] for row in cases[int(n)]]
    losses = of_rows(subject, rows, settings.batch_tokens, "brackets")
    nats = losses.by_document(losses.nats, len(rows)).reshape(-1, len(found))
    right = int((nats.argmin(1) == np.arange(len(nats)) // many).sum())
    record_share(figures, "right", right, len(nats), 1.0, 1 / len(found), "closing brackets of the kind that was opened last")


def closings(text: str, characters: int) -> Iterator[tuple[str, str]]:
    """Each closing bracket that closes the innermost open one within the last `characters`: (what stands before it, the bracket)."""
    opened: list[tuple[int, str]] = []
    for place, character in enumerate(text):
        if character in CLOSES:
            opened.append((place, CLOSES[character]))
        elif character in CLOSES.values():
            if opened and opened[-1][1] == character and opened[-1][0] >= place - characters:
                yield text[max(0, place - characters) : place], character
            opened = opened[:-1] if opened and opened[-1][1] == character else []


def context(settings: Settings, subject: Subject, figures: Recorder) -> None:
    """Two passages of two held-out documents: each one's own continuation must suit it better than the other's does.

    Summed over both, so how probable a continuation is by itself cancels, and a net that ignores its context does not win.
    """
    passages = _passages(settings, subject)
    figures.counted(
        "passages", len(passages), "passages", "held-out passages that were drawn, each of another document than its partner's"
    )
    pairs = list(zip(passages[::2], passages[1::2], strict=False))
    if not pairs:
        return
    size = settings.context_tokens
    rows = [np.concatenate([a[:size], b[size:]]).tolist() for one, two in pairs for a in (one, two) for b in (one, two)]
    losses = of_rows(subject, rows, settings.batch_tokens, "context")
    asked = losses.place >= size - 1
    nats = np.bincount(losses.document[asked], weights=losses.nats[asked], minlength=len(rows)).reshape(-1, 2, 2)
    won = nats[:, 0, 1] + nats[:, 1, 0] - nats[:, 0, 0] - nats[:, 1, 1]
    right = int((won > 0).sum())
    record_share(
        figures, "right", right, len(pairs), 1.0, 0.5, "pairs of passages with the better sum of losses for their own continuations"
    )
    gain = float(won.mean()) / (2 * settings.continuation_tokens)
    figures.measured("gain", gain, "nats/token", "loss of a continuation after a foreign passage minus its loss after its own")


def _passages(settings: Settings, subject: Subject) -> list[NDArray[np.int64]]:
    """Passages in an order in which neighbours are of different documents."""
    split, size = subject.tokens.val, settings.context_tokens + settings.continuation_tokens
    long = np.flatnonzero(np.diff(split.starts) >= size)
    if len(long) < 2:
        return []
    draw = rng.generator(subject.seed, "context")
    documents = np.concatenate([draw.permutation(long) for _ in range(4 * settings.pairs // len(long) + 2)])
    found: list[NDArray[np.int64]] = []
    for one, two in zip(documents[::2], documents[1::2], strict=False):
        if one == two or len(found) >= 2 * settings.pairs:
            continue
        for document in (one, two):
            first = int(draw.integers(split.starts[document], split.starts[document + 1] - size + 1))
            found.append(np.asarray(split.ids[first : first + size]).astype(np.int64))
    return found


def _texts(subject: Subject) -> Iterator[str]:
    split = subject.tokens.val
    for first, end in zip(split.starts[:-1], split.starts[1:], strict=True):
        yield subject.codec.decode(split.ids[first:end].tolist()).decode("utf-8", "replace")


SPEC = Validating(Settings, probes)
