"""A depth, or a range of parameters, in; the settings of a net and of its training that follow from it, out.

Every rule here is somebody's estimate, named where it stands. Only the parameters are counted, by the net itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ModelArch = Literal["moe", "gpt"]
ParamCounter = Callable[
    [Mapping[str, Any], int], Mapping[str, int]
]  # a `net` section and a vocabulary: parameters by part, total, active

WIDTH_PER_LAYER = (
    64  # hidden for each layer (nanochat's --depth); Kaplan (arXiv 2001.08361, fig. 5) finds the loss flat over a wide range of it
)
ASPECT_RANGE = (32, 128)  # what the planner takes for such a range
HEAD_DIM = 64  # components of a head: GPT-2, Llama 3.2 1B
MAX_QUERIES_PER_KV_HEAD = 4  # query heads for each key/value head at most (arXiv 2305.13245; Mixtral has 4)
NUM_EXPERTS, EXPERTS_PER_TOKEN = 8, 2  # Mixtral (arXiv 2401.04088)
FFN_RATIO = {
    "moe": 2.0,
    "gpt": 8 / 3,
}  # inner width for each unit of hidden: our default recipe's experts; SwiGLU (arXiv 2002.05202)
FFN_RATIO_RANGE = (1.0, 4.0)  # where the planner may move it
WIDTH_MULTIPLE = 64  # widths are multiples of it: grouped products need 8, tiles of matrix units 16 to 64

TOKENS_PER_PARAM = 12  # for each active parameter (nanochat's ratio; Hoffmann, arXiv 2203.15556, has about 20)
REFERENCE_BATCH_TOKENS, REFERENCE_TRAIN_TOKENS, BATCH_EXPONENT = (
    1 << 19,
    1.32e9,
    0.383,
)  # nanochat's d12, and the growth of batches with tokens (arXiv 2505.13738)
REFERENCE_WIDTH = 192  # the width at which the rates of AdamW below were tuned (our default recipe)
REFERENCE_LRS = {"embedding": 0.012, "matrix": 0.015, "rest": 0.01}


@dataclass(frozen=True)
class ModelSizePlan:
    """A `net` section and what goes with it. `tokens`, `batch_tokens`, `steps` and `rates` are estimates, the parameters counted."""

    model: Mapping[str, Any]
    total_params: int
    active_params: int
    train_tokens: int  # to train on
    batch_tokens: int  # a step
    max_steps: int
    peak_lrs: Mapping[str, float]  # peaks, by the role of a parameter: matrices by Muon, the others by AdamW


def size_for_depth(depth: int, arch: ModelArch, vocab_size: int, max_seq_len: int, count_params: ParamCounter) -> ModelSizePlan:
    """The size that one dial gives: `depth` layers, all else derived. ValueError for a depth below 1."""
    if depth < 1:
        raise ValueError(f"depth is {depth}; at least 1 would be right")
    hidden_size = _hidden_size(WIDTH_PER_LAYER * depth)
    return derive_training(
        model_section(arch, depth, hidden_size, _round_width(FFN_RATIO[arch] * hidden_size), NUM_EXPERTS, max_seq_len),
        vocab_size,
        count_params,
    )


def sizes_in_range(
    min_params: float, max_params: float, arch: ModelArch, vocab_size: int, max_seq_len: int, count_params: ParamCounter
) -> list[ModelSizePlan]:
    """One size for each depth that has any with `low` to `high` parameters in total, those of the most usual proportions first.

    ValueError if the range is upside down or no shape lies inside it.
    """
    if not 0 < min_params <= max_params:
        raise ValueError(
            f"{min_params:,.0f} to {max_params:,.0f} is no range of parameters; a smaller number above 0, then a larger one, would be right"
        )
    best_by_depth: dict[int, tuple[float, Mapping[str, Any]]] = {}
    for hidden_size, num_layers, num_experts in _shape_grid(arch, max_params, vocab_size):
        model = _fit_intermediate_size(
            min_params,
            max_params,
            [
                model_section(arch, num_layers, hidden_size, intermediate_size, num_experts, max_seq_len)
                for intermediate_size in _intermediate_sizes(hidden_size)
            ],
            arch,
            vocab_size,
            count_params,
        )
        if model is not None and (
            num_layers not in best_by_depth or _proportion_distance(model, arch) < best_by_depth[num_layers][0]
        ):
            best_by_depth[num_layers] = _proportion_distance(model, arch), model
    if not best_by_depth:
        raise ValueError(
            f"no {arch} with a vocabulary of {vocab_size:,} has {min_params:,.0f} to {max_params:,.0f} parameters; try a wider range"
        )
    return [
        derive_training(model, vocab_size, count_params) for _, model in sorted(best_by_depth.values(), key=lambda pair: pair[0])
    ]


def derive_training(model: Mapping[str, Any], vocab_size: int, count_params: ParamCounter) -> ModelSizePlan:
    """What goes with a `net` section."""
    counts = count_params(model, vocab_size)
    train_tokens = TOKENS_PER_PARAM * counts["active"]
    tokens_per_step = optimal_batch_tokens(train_tokens)
    return ModelSizePlan(
        model,
        counts["total"],
        counts["active"],
        train_tokens,
        tokens_per_step,
        math.ceil(train_tokens / tokens_per_step),
        scaled_lrs(model["hidden"]),
    )


def optimal_batch_tokens(train_tokens: int) -> int:
    """Tokens a step for a training on `tokens`: a power law, to the nearest power of two, at least 1024. An estimate."""
    return max(1024, 1 << round(math.log2(REFERENCE_BATCH_TOKENS * (train_tokens / REFERENCE_TRAIN_TOKENS) ** BATCH_EXPONENT)))


def scaled_lrs(hidden_size: int) -> dict[str, float]:
    """Peak rates at a width. AdamW's fall with its square root (nanochat), Muon's stay: its steps are orthogonal at any. An estimate."""
    scale = (hidden_size / REFERENCE_WIDTH) ** -0.5
    return {role: lr if role == "matrix" else float(f"{lr * scale:.3g}") for role, lr in REFERENCE_LRS.items()}


def model_section(
    arch: ModelArch, num_layers: int, hidden_size: int, intermediate_size: int, num_experts: int, max_seq_len: int
) -> dict[str, Any]:
    """A `net` section as params.yaml has it."""
    num_heads = max(1, hidden_size // HEAD_DIM)
    shape = {"hidden": hidden_size, "layers": num_layers, "heads": num_heads, "kv_heads": _num_kv_heads(num_heads)}
    shared_fields = {"context": max_seq_len, "tied": True, "rope_theta": 10_000.0, "norm_eps": 1e-5, "dropout": 0.0}
    if arch == "gpt":
        return {"kind": arch, "style": "llama", **shape, "inner": intermediate_size, **shared_fields}
    moe_fields = {"experts": num_experts, "experts_per_token": EXPERTS_PER_TOKEN, "expert_hidden": intermediate_size}
    loss_fields = {"balance": "layerwise", "balance_weight": 0.01, "z_weight": 0.001}  # Switch (2101.03961), ST-MoE (2202.08906)
    return {"kind": arch, **shape, **moe_fields, **shared_fields, **loss_fields}


def _shape_grid(arch: ModelArch, max_params: float, vocab_size: int) -> Iterator[tuple[int, int, int]]:
    """(hidden, layers, experts) of usual proportions whose embedding and whose attention alone are not too large already."""
    for hidden_size in sorted({_hidden_size(hidden_size) for hidden_size in range(WIDTH_MULTIPLE, 16_384 + 1, WIDTH_MULTIPLE)}):
        if hidden_size * vocab_size > max_params:
            return
        for num_layers in range(math.ceil(hidden_size / ASPECT_RANGE[1]), hidden_size // ASPECT_RANGE[0] + 1):
            if 2 * num_layers * hidden_size * hidden_size <= max_params:
                yield from (
                    (hidden_size, num_layers, num_experts)
                    for num_experts in ((NUM_EXPERTS, 2 * NUM_EXPERTS) if arch == "moe" else (1,))
                )


def _intermediate_sizes(hidden_size: int) -> range:
    return range(_round_width(FFN_RATIO_RANGE[0] * hidden_size), _round_width(FFN_RATIO_RANGE[1] * hidden_size) + 1, WIDTH_MULTIPLE)


def _fit_intermediate_size(
    min_params: float,
    max_params: float,
    candidates: Sequence[Mapping[str, Any]],
    arch: ModelArch,
    vocab_size: int,
    count_params: ParamCounter,
) -> Mapping[str, Any] | None:
    """Of nets that differ in the inner width alone, in steps, the one nearest the dial's that has `low` to `high` parameters."""
    smallest_total, next_total = (count_params(model, vocab_size)["total"] for model in candidates[:2])
    params_per_step = next_total - smallest_total  # the total is linear in the inner width
    first, last = (
        max(0, math.ceil((min_params - smallest_total) / params_per_step)),
        min(len(candidates) - 1, math.floor((max_params - smallest_total) / params_per_step)),
    )
    return min(candidates[first : max(first, last + 1)], key=lambda model: _proportion_distance(model, arch), default=None)


def _proportion_distance(model: Mapping[str, Any], arch: ModelArch) -> float:
    """How far proportions are from the dial's, in doublings; of equals, the one of the fewer experts."""
    intermediate_size = model["inner"] if arch == "gpt" else model["expert_hidden"]
    aspect = abs(math.log2(model["hidden"] / model["layers"] / WIDTH_PER_LAYER))
    return (
        aspect
        + abs(math.log2(intermediate_size / model["hidden"] / FFN_RATIO[arch]))
        + math.log2(model.get("experts", NUM_EXPERTS) / NUM_EXPERTS)
    )


def _num_kv_heads(num_heads: int) -> int:
    """The fewest key/value heads that divide `heads` into groups of at most GROUP."""
    return next(
        num_kv_heads
        for num_kv_heads in range(1, num_heads + 1)
        if num_heads % num_kv_heads == 0 and num_heads // num_kv_heads <= MAX_QUERIES_PER_KV_HEAD
    )


def _hidden_size(hidden_size: int) -> int:
    """A hidden size with an even number of heads, beyond the smallest: an odd one may be prime, and leave queries nothing to share."""
    return hidden_size if hidden_size <= 4 * HEAD_DIM else 2 * HEAD_DIM * math.ceil(hidden_size / (2 * HEAD_DIM))


def _round_width(width: float) -> int:
    return max(WIDTH_MULTIPLE, WIDTH_MULTIPLE * round(width / WIDTH_MULTIPLE))
