"""Prompts, a reader of rows and a sampling in; continuations out, token by token.

A reader gives the logits after the last token of each row. One reads whole rows, which any causal net can; one reads only what is
new and keeps the rest in a cache, to the same logits.

Shapes: B rows, T positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from provenlm.models.common.layers.kv_cache import Cache

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its logits: those of repetitions made smaller, then divided by `temperature`, cut to `top_k`, to `top_p`."""

    temperature: float  # 0 is greedy: always the most probable token
    top_k: int  # only the k most probable; 0: all
    top_p: float  # only the fewest most probable that together reach p (Holtzman et al. 2020, arXiv 1904.09751); 1: all
    repetition_penalty: (
        float  # logits of the row's tokens: divided by it if above 0, else times it (Keskar et al. 2019, arXiv 1909.05858)
    )

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature and top_k must be at least 0, and top_p above 0 and at most 1")
        if self.temperature == 0 and (self.top_k, self.top_p) != (0, 1.0):
            raise ValueError("temperature 0 is greedy and reads neither top_k nor top_p: write top_k: 0 and top_p: 1.0")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0, and is none at 1")


GREEDY = Sampling(0.0, 0, 1.0, 1.0)


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that `sampling` draws from, (B, V), its penalty left out; greedy is all on the most probable token."""
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).to(logits_BV.dtype)
    sorted_BV, order_BV = (logits_BV / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
    keep_BV = (rank_V < (sampling.top_k or len(rank_V))).expand_as(sorted_BV)
    kept_BV = sorted_BV * keep_BV
    kept_BV = kept_BV / kept_BV.sum(-1, keepdim=True)
    before_BV = kept_BV.cumsum(-1) - kept_BV
    kept_BV = kept_BV * ((before_BV < sampling.top_p) | (rank_V == 0))
    return torch.zeros_like(kept_BV).scatter(-1, order_BV, kept_BV / kept_BV.sum(-1, keepdim=True))


def penalised(logits_BV: Tensor, rows: Rows, penalty: float) -> Tensor:
    """The logits with those of the tokens that stand in a row made smaller."""
    if penalty == 1:
        return logits_BV
    stands_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
    for place, row in enumerate(rows):
        stands_BV[place, torch.tensor(row, device=logits_BV.device)] = True
    smaller_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(stands_BV, smaller_BV, logits_BV)


class Reader(Protocol):
    """Gives logits_BV after the last token of each row, on the CPU."""

    def __call__(self, rows: Rows) -> Tensor: ...

    def keep(self, rows: Sequence[int]) -> None: ...  # only these of the last rows will be asked for again, each one token longer


@dataclass(frozen=True)
class Whole:
    """Reads the last `length` tokens of each row anew. `logits(tokens_BT)` is causal; `pad` fills shorter rows behind, unseen."""

    logits: Callable[[Tensor], Tensor]
    length: int
    pad: int
    device: torch.device

    def __call__(self, rows: Rows) -> Tensor:
        return _last(
            self.logits(padded([row[-self.length :] for row in rows], self.pad, self.device)),
            [min(len(r), self.length) for r in rows],
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Nothing to let go."""


class Cached:
    """Reads only what is new of each row, for the rows of one generation.

    A row that outgrows the length moves every position of its window: from there on whole rows are read.
    """

    def __init__(self, continued: Callable[[Tensor, Cache], Tensor], whole: Whole) -> None:
        self.continued, self.whole = continued, whole
        self.cache: Cache | None = None
        self.read: list[int] = []

    def __call__(self, rows: Rows) -> Tensor:
        if max(map(len, rows)) > self.whole.length:
            self.cache = None
            return self.whole(rows)
        if self.cache is None:
            self.cache, self.read = Cache(self.whole.length), [0] * len(rows)
        new = [row[read:] for row, read in zip(rows, self.read, strict=True)]
        tokens_BT = padded(new, self.whole.pad, self.whole.device)
        first_B1 = torch.tensor(self.read, device=self.whole.device)[:, None]
        self.cache.place(first_B1 + torch.arange(tokens_BT.shape[1], device=self.whole.device))
        self.read = [len(row) for row in rows]
        return _last(self.continued(tokens_BT, self.cache), [len(row) for row in new])

    def keep(self, rows: Sequence[int]) -> None:
        self.read = [self.read[n] for n in rows] if self.cache else []
        if self.cache:
            self.cache.keep(torch.tensor(rows, dtype=torch.int64, device=self.whole.device))  # none, too


def padded(rows: Rows, pad: int, device: torch.device) -> Tensor:
    """tokens_BT, shorter rows filled behind with `pad`."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)


def _last(logits_BTV: Tensor, lengths: Sequence[int]) -> Tensor:
    last_B = torch.tensor(lengths, device=logits_BTV.device) - 1
    return logits_BTV[torch.arange(len(lengths), device=logits_BTV.device), last_B].float().cpu()


@torch.inference_mode()
def stream(
    read: Reader, prompts: Rows, sampling: Sampling, most: int, stop: int | None, generator: torch.Generator
) -> Iterator[dict[int, int]]:
    """After each pass the token drawn for each row that still goes on, by the row's number.

    A row ends after `most` tokens or with `stop`, which is its last token then. `generator` is of the CPU.
    ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("a prompt needs at least one token")
    rows = [list(prompt) for prompt in prompts]
    active = list(range(len(rows)))
    for _ in range(most):
        if not active:
            return
        going = [rows[n] for n in active]
        logits_BV = penalised(read(going), going, sampling.repetition_penalty)
        drawn: list[int] = torch.multinomial(probabilities(logits_BV, sampling), 1, generator=generator)[:, 0].tolist()
        for n, token in zip(active, drawn, strict=True):
            rows[n].append(token)
        yield dict(zip(active, drawn, strict=True))
        staying = [place for place, token in enumerate(drawn) if token != stop]
        if len(staying) < len(active):
            read.keep(staying)
            active = [active[place] for place in staying]


def generate(
    read: Reader, prompts: Rows, sampling: Sampling, most: int, stop: int | None, generator: torch.Generator
) -> list[list[int]]:
    """The whole continuation of each prompt, as `stream` gives it."""
    made: list[list[int]] = [[] for _ in prompts]
    for drawn in stream(read, prompts, sampling, most, stop, generator):
        for n, token in drawn.items():
            made[n].append(token)
    return made
