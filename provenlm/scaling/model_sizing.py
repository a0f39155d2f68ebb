"""A depth, or a range of parameters, in; the settings of a net and of its training that follow from it, out.

Every rule here is somebody's estimate, named where it stands. Only the parameters are counted, by the net itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["moe", "gpt"]
Count = Callable[[Mapping[str, Any], int], Mapping[str, int]]  # a `net` section and a vocabulary: parameters by part, total, active

WIDTH = (
    64  # hidden for each layer (nanochat's --depth); Kaplan (arXiv 2001.08361, fig. 5) finds the loss flat over a wide range of it
)
ASPECTS = (32, 128)  # what the planner takes for such a range
HEAD = 64  # components of a head: GPT-2, Llama 3.2 1B
GROUP = 4  # query heads for each key/value head at most (arXiv 2305.13245; Mixtral has 4)
EXPERTS, CHOSEN = 8, 2  # Mixtral (arXiv 2401.04088)
INNER = {"moe": 2.0, "gpt": 8 / 3}  # inner width for each unit of hidden: our default recipe's experts; SwiGLU (arXiv 2002.05202)
INNERS = (1.0, 4.0)  # where the planner may move it
STEP = 64  # widths are multiples of it: grouped products need 8, tiles of matrix units 16 to 64

TOKENS = 12  # for each active parameter (nanochat's ratio; Hoffmann, arXiv 2203.15556, has about 20)
BATCH, BATCH_TOKENS, BATCH_POWER = (
    1 << 19,
    1.32e9,
    0.383,
)  # nanochat's d12, and the growth of batches with tokens (arXiv 2505.13738)
RATE_WIDTH = 192  # the width at which the rates of AdamW below were tuned (our default recipe)
RATES = {"embedding": 0.012, "matrix": 0.015, "rest": 0.01}


@dataclass(frozen=True)
class Size:
    """A `net` section and what goes with it. `tokens`, `batch_tokens`, `steps` and `rates` are estimates, the parameters counted."""

    net: Mapping[str, Any]
    total: int
    active: int
    tokens: int  # to train on
    batch_tokens: int  # a step
    steps: int
    rates: Mapping[str, float]  # peaks, by the role of a parameter: matrices by Muon, the others by AdamW


def at_depth(depth: int, kind: Kind, vocabulary: int, context: int, count: Count) -> Size:
    """The size that one dial gives: `depth` layers, all else derived. ValueError for a depth below 1."""
    if depth < 1:
        raise ValueError(f"depth is {depth}; at least 1 would be right")
    hidden = _width(WIDTH * depth)
    return sized(section(kind, depth, hidden, _multiple(INNER[kind] * hidden), EXPERTS, context), vocabulary, count)


def within(low: float, high: float, kind: Kind, vocabulary: int, context: int, count: Count) -> list[Size]:
    """One size for each depth that has any with `low` to `high` parameters in total, those of the most usual proportions first.

    ValueError if the range is upside down or no shape lies inside it.
    """
    if not 0 < low <= high:
        raise ValueError(
            f"{low:,.0f} to {high:,.0f} is no range of parameters; a smaller number above 0, then a larger one, would be right"
        )
    found: dict[int, tuple[float, Mapping[str, Any]]] = {}
    for hidden, layers, experts in _grid(kind, high, vocabulary):
        net = _fitted(
            low,
            high,
            [section(kind, layers, hidden, inner, experts, context) for inner in _inners(hidden)],
            kind,
            vocabulary,
            count,
        )
        if net is not None and (layers not in found or _oddness(net, kind) < found[layers][0]):
            found[layers] = _oddness(net, kind), net
    if not found:
        raise ValueError(
            f"no {kind} with a vocabulary of {vocabulary:,} has {low:,.0f} to {high:,.0f} parameters; try a wider range"
        )
    return [sized(net, vocabulary, count) for _, net in sorted(found.values(), key=lambda pair: pair[0])]


def sized(net: Mapping[str, Any], vocabulary: int, count: Count) -> Size:
    """What goes with a `net` section."""
    parts = count(net, vocabulary)
    tokens = TOKENS * parts["active"]
    batch = batch_tokens(tokens)
    return Size(net, parts["total"], parts["active"], tokens, batch, math.ceil(tokens / batch), rates(net["hidden"]))


def batch_tokens(tokens: int) -> int:
    """Tokens a step for a training on `tokens`: a power law, to the nearest power of two, at least 1024. An estimate."""
    return max(1024, 1 << round(math.log2(BATCH * (tokens / BATCH_TOKENS) ** BATCH_POWER)))


def rates(hidden: int) -> dict[str, float]:
    """Peak rates at a width. AdamW's fall with its square root (nanochat), Muon's stay: its steps are orthogonal at any. An estimate."""
    scale = (hidden / RATE_WIDTH) ** -0.5
    return {role: rate if role == "matrix" else float(f"{rate * scale:.3g}") for role, rate in RATES.items()}


def section(kind: Kind, layers: int, hidden: int, inner: int, experts: int, context: int) -> dict[str, Any]:
    """A `net` section as params.yaml has it."""
    heads = max(1, hidden // HEAD)
    shape = {"hidden": hidden, "layers": layers, "heads": heads, "kv_heads": _kv_heads(heads)}
    ends = {"context": context, "tied": True, "rope_theta": 10_000.0, "norm_eps": 1e-5, "dropout": 0.0}
    if kind == "gpt":
        return {"kind": kind, "style": "llama", **shape, "inner": inner, **ends}
    mixture = {"experts": experts, "experts_per_token": CHOSEN, "expert_hidden": inner}
    losses = {"balance": "layerwise", "balance_weight": 0.01, "z_weight": 0.001}  # Switch (2101.03961), ST-MoE (2202.08906)
    return {"kind": kind, **shape, **mixture, **ends, **losses}


def _grid(kind: Kind, high: float, vocabulary: int) -> Iterator[tuple[int, int, int]]:
    """(hidden, layers, experts) of usual proportions whose embedding and whose attention alone are not too large already."""
    for hidden in sorted({_width(hidden) for hidden in range(STEP, 16_384 + 1, STEP)}):
        if hidden * vocabulary > high:
            return
        for layers in range(math.ceil(hidden / ASPECTS[1]), hidden // ASPECTS[0] + 1):
            if 2 * layers * hidden * hidden <= high:
                yield from ((hidden, layers, experts) for experts in ((EXPERTS, 2 * EXPERTS) if kind == "moe" else (1,)))


def _inners(hidden: int) -> range:
    return range(_multiple(INNERS[0] * hidden), _multiple(INNERS[1] * hidden) + 1, STEP)


def _fitted(
    low: float, high: float, nets: Sequence[Mapping[str, Any]], kind: Kind, vocabulary: int, count: Count
) -> Mapping[str, Any] | None:
    """Of nets that differ in the inner width alone, in steps, the one nearest the dial's that has `low` to `high` parameters."""
    least, more = (count(net, vocabulary)["total"] for net in nets[:2])
    each = more - least  # the total is linear in the inner width
    first, last = max(0, math.ceil((low - least) / each)), min(len(nets) - 1, math.floor((high - least) / each))
    return min(nets[first : max(first, last + 1)], key=lambda net: _oddness(net, kind), default=None)


def _oddness(net: Mapping[str, Any], kind: Kind) -> float:
    """How far proportions are from the dial's, in doublings; of equals, the one of the fewer experts."""
    inner = net["inner"] if kind == "gpt" else net["expert_hidden"]
    aspect = abs(math.log2(net["hidden"] / net["layers"] / WIDTH))
    return aspect + abs(math.log2(inner / net["hidden"] / INNER[kind])) + math.log2(net.get("experts", EXPERTS) / EXPERTS)


def _kv_heads(heads: int) -> int:
    """The fewest key/value heads that divide `heads` into groups of at most GROUP."""
    return next(kv for kv in range(1, heads + 1) if heads % kv == 0 and heads // kv <= GROUP)


def _width(wanted: int) -> int:
    """A hidden size with an even number of heads, beyond the smallest: an odd one may be prime, and leave queries nothing to share."""
    return wanted if wanted <= 4 * HEAD else 2 * HEAD * math.ceil(wanted / (2 * HEAD))


def _multiple(width: float) -> int:
    return max(STEP, STEP * round(width / STEP))
