"""Derive a model section and its training from a depth or a parameter budget.

Every rule is an estimate with its source named beside it; only the parameter counts are exact, counted by the model itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provenlm.models.common.spec import PlannedShape, SizeRules

# (model section, vocab_size) -> parameters by part, and `total` and `active`
ParamCounter = Callable[[Mapping[str, Any], int], Mapping[str, int]]

# Hidden size per layer (nanochat's --depth); Kaplan (arXiv 2001.08361, fig. 5) finds the loss flat over a wide range of it.
WIDTH_PER_LAYER = 64
ASPECT_RANGE = (32, 128)  # range of the hidden size per layer that the planner tries
HEAD_DIM = 64  # GPT-2, Llama 3.2 1B
MAX_QUERIES_PER_KV_HEAD = 4  # arXiv 2305.13245; Mixtral has 4
FFN_RATIO_RANGE = (1.0, 4.0)  # range that the planner tries
WIDTH_MULTIPLE = 64  # grouped products need multiples of 8, matrix units have tiles of 16 to 64

TOKENS_PER_PARAM = 12  # per active parameter (nanochat's ratio; Hoffmann, arXiv 2203.15556, has about 20)
# nanochat's d12, and the growth of the batch with the training tokens (arXiv 2505.13738)
REFERENCE_BATCH_TOKENS, REFERENCE_TRAIN_TOKENS, BATCH_EXPONENT = 1 << 19, 1.32e9, 0.383
REFERENCE_WIDTH = 192  # the hidden size at which the learning rates below were tuned (default recipe)
REFERENCE_LRS = {"embedding": 0.012, "matrix": 0.015, "default": 0.01}


@dataclass(frozen=True)
class ModelSizePlan:
    """Hold a model section with its parameter counts and derived training.

    `train_tokens`, `batch_tokens` (per step), `max_steps` and `peak_lrs` (by parameter group: Muon for matrices, AdamW for the others) are
    estimates.
    """

    model: Mapping[str, Any]
    total_params: int
    active_params: int
    train_tokens: int
    batch_tokens: int
    max_steps: int
    peak_lrs: Mapping[str, float]


def size_for_depth(
    depth: int, arch: str, rules: SizeRules, vocab_size: int, max_seq_len: int, count_params: ParamCounter
) -> ModelSizePlan:
    """Derive all sizes from the number of layers.

    Raises ValueError for a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}")
    hidden_size = _hidden_size(WIDTH_PER_LAYER * depth)
    return derive_training(
        model_section(
            arch, rules, depth, hidden_size, _round_width(rules.ffn_ratio * hidden_size), rules.num_experts[0], max_seq_len
        ),
        vocab_size,
        count_params,
    )


def sizes_in_range(
    min_params: float,
    max_params: float,
    arch: str,
    rules: SizeRules,
    vocab_size: int,
    max_seq_len: int,
    count_params: ParamCounter,
) -> list[ModelSizePlan]:
    """List one size per depth that has `min_params` to `max_params` parameters.

    Those with the most usual proportions come first. Raises ValueError if the range is not valid or no size lies in it.
    """
    if not 0 < min_params <= max_params:
        raise ValueError(f"the parameter range must be 0 < minimum <= maximum, got {min_params:,.0f} to {max_params:,.0f}")
    best_by_depth: dict[int, tuple[float, Mapping[str, Any]]] = {}
    for hidden_size, num_layers, num_experts in _shape_grid(rules, max_params, vocab_size):
        model = _fit_intermediate_size(
            min_params,
            max_params,
            [
                model_section(arch, rules, num_layers, hidden_size, intermediate_size, num_experts, max_seq_len)
                for intermediate_size in _intermediate_sizes(hidden_size)
            ],
            rules,
            vocab_size,
            count_params,
        )
        if model is not None and (
            num_layers not in best_by_depth or _proportion_distance(model, rules) < best_by_depth[num_layers][0]
        ):
            best_by_depth[num_layers] = _proportion_distance(model, rules), model
    if not best_by_depth:
        raise ValueError(
            f"no {arch} with vocab_size {vocab_size:,} has {min_params:,.0f} to {max_params:,.0f} parameters; widen the range"
        )
    return [
        derive_training(model, vocab_size, count_params) for _, model in sorted(best_by_depth.values(), key=lambda pair: pair[0])
    ]


def derive_training(model: Mapping[str, Any], vocab_size: int, count_params: ParamCounter) -> ModelSizePlan:
    """Derive training tokens, batch size and learning rates of a model section."""
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
        scaled_lrs(model["hidden_size"]),
    )


def optimal_batch_tokens(train_tokens: int) -> int:
    """Estimate the tokens per step for a training on `train_tokens`.

    A power law, rounded to the nearest power of two, at least 1024.
    """
    return max(1024, 1 << round(math.log2(REFERENCE_BATCH_TOKENS * (train_tokens / REFERENCE_TRAIN_TOKENS) ** BATCH_EXPONENT)))


def scaled_lrs(hidden_size: int) -> dict[str, float]:
    """Estimate the peak learning rates at a width.

    AdamW's fall with the square root of the width (nanochat); Muon's stay, because its steps are orthogonal at any width.
    """
    scale = (hidden_size / REFERENCE_WIDTH) ** -0.5
    return {group: lr if group == "matrix" else float(f"{lr * scale:.3g}") for group, lr in REFERENCE_LRS.items()}


def model_section(
    arch: str, rules: SizeRules, num_layers: int, hidden_size: int, intermediate_size: int, num_experts: int, max_seq_len: int
) -> dict[str, Any]:
    """Return a model section of params.yaml.

    Its fields come from the model's size rules.
    """
    num_heads = max(1, hidden_size // HEAD_DIM)
    shape = PlannedShape(num_layers, hidden_size, num_heads, _num_kv_heads(num_heads), intermediate_size, num_experts, max_seq_len)
    return {"arch": arch, **rules.config_fields(shape)}


def _shape_grid(rules: SizeRules, max_params: float, vocab_size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (hidden size, layers, experts) of usual proportions below `max_params`.

    Sizes whose embedding or attention alone exceed `max_params` are left out.
    """
    for hidden_size in sorted({_hidden_size(hidden_size) for hidden_size in range(WIDTH_MULTIPLE, 16_384 + 1, WIDTH_MULTIPLE)}):
        if hidden_size * vocab_size > max_params:
            return
        for num_layers in range(math.ceil(hidden_size / ASPECT_RANGE[1]), hidden_size // ASPECT_RANGE[0] + 1):
            if 2 * num_layers * hidden_size * hidden_size <= max_params:
                yield from ((hidden_size, num_layers, num_experts) for num_experts in rules.num_experts)


def _intermediate_sizes(hidden_size: int) -> range:
    """Return the FFN widths to try at a hidden size."""
    return range(_round_width(FFN_RATIO_RANGE[0] * hidden_size), _round_width(FFN_RATIO_RANGE[1] * hidden_size) + 1, WIDTH_MULTIPLE)


def _fit_intermediate_size(
    min_params: float,
    max_params: float,
    candidates: Sequence[Mapping[str, Any]],
    rules: SizeRules,
    vocab_size: int,
    count_params: ParamCounter,
) -> Mapping[str, Any] | None:
    """Return the candidate with the most usual proportions in the parameter range.

    `candidates` differ in the FFN width alone, in equal steps. None if no candidate lies in the range.
    """
    smallest_total, next_total = (count_params(model, vocab_size)["total"] for model in candidates[:2])
    params_per_step = next_total - smallest_total  # the total is linear in the FFN width
    first = max(0, math.ceil((min_params - smallest_total) / params_per_step))
    last = min(len(candidates) - 1, math.floor((max_params - smallest_total) / params_per_step))
    return min(candidates[first : max(first, last + 1)], key=lambda model: _proportion_distance(model, rules), default=None)


def _proportion_distance(model: Mapping[str, Any], rules: SizeRules) -> float:
    """Return how far proportions are from the usual ones, in doublings.

    Of equal ones the one with fewer experts is nearer.
    """
    intermediate_size = model["intermediate_size"]
    aspect = abs(math.log2(model["hidden_size"] / model["num_hidden_layers"] / WIDTH_PER_LAYER))
    return (
        aspect
        + abs(math.log2(intermediate_size / model["hidden_size"] / rules.ffn_ratio))
        + math.log2(model.get("num_experts", rules.num_experts[0]) / rules.num_experts[0])
    )


def _num_kv_heads(num_heads: int) -> int:
    """Return the fewest key/value heads that divide the query heads evenly.

    Each serves at most `MAX_QUERIES_PER_KV_HEAD` query heads.
    """
    return next(
        num_kv_heads
        for num_kv_heads in range(1, num_heads + 1)
        if num_heads % num_kv_heads == 0 and num_heads // num_kv_heads <= MAX_QUERIES_PER_KV_HEAD
    )


def _hidden_size(hidden_size: int) -> int:
    """Round a hidden size up to an even number of heads, except the smallest.

    An odd number may be prime and leave no way to share key/value heads.
    """
    return hidden_size if hidden_size <= 4 * HEAD_DIM else 2 * HEAD_DIM * math.ceil(hidden_size / (2 * HEAD_DIM))


def _round_width(width: float) -> int:
    """Round a width to a multiple of `WIDTH_MULTIPLE`."""
    return max(WIDTH_MULTIPLE, WIDTH_MULTIPLE * round(width / WIDTH_MULTIPLE))
