"""Weights of our decoder in the style of GPT-2, tokens and targets in; loss and gradients out, by hand and by NumPy alone.

Shapes: B rows, T positions, D hidden, N heads, H components of a head, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = Mapping[str, Array]


def loss_and_gradients(
    weights: Weights, heads: int, eps: float, inputs_BT: Array, targets_BT: Array
) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy over all targets, and its gradient for every weight, by name."""
    w, made = weights, {}
    layers = sum(name.endswith("q_proj.weight") for name in w)
    x_BTD = w["embed_tokens.weight"][inputs_BT] + w["embed_positions.weight"][: inputs_BT.shape[1]]
    kept = []
    for n in range(layers):
        x_BTD, attention = attend(x_BTD, w, f"layers.{n}.", heads, eps)
        x_BTD, perceptron = perceive(x_BTD, w, f"layers.{n}.", eps)
        kept.append((attention, perceptron))
    normed_BTD, last = norm(x_BTD, w, "norm", eps)
    logits_BTV = normed_BTD @ w["lm_head.weight"].T
    logits_BTV -= logits_BTV.max(-1, keepdims=True)
    chances_BTV = np.exp(logits_BTV)
    sums_BT1 = chances_BTV.sum(-1, keepdims=True)
    picked = np.arange(targets_BT.size), targets_BT.ravel()
    loss = float((np.log(sums_BT1.ravel()) - logits_BTV.reshape(targets_BT.size, -1)[picked]).mean())
    slope_BTV = chances_BTV / sums_BT1
    slope_BTV.reshape(targets_BT.size, -1)[picked] -= 1
    slope_BTV /= targets_BT.size
    made["lm_head.weight"] = flat(slope_BTV).T @ flat(normed_BTD)
    slope_BTD = norm_back(slope_BTV @ w["lm_head.weight"], last, made, "norm")
    for n in reversed(range(layers)):
        attention, perceptron = kept[n]
        slope_BTD = perceive_back(slope_BTD, w, made, f"layers.{n}.", perceptron)
        slope_BTD = attend_back(slope_BTD, w, made, f"layers.{n}.", attention)
    made["embed_positions.weight"] = np.zeros_like(w["embed_positions.weight"])
    made["embed_positions.weight"][: inputs_BT.shape[1]] = slope_BTD.sum(0)
    made["embed_tokens.weight"] = np.zeros_like(w["embed_tokens.weight"])
    np.add.at(made["embed_tokens.weight"], inputs_BT, slope_BTD)
    return loss, made


def flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def norm(x_BTD: Array, w: Weights, name: str, eps: float) -> tuple[Array, Any]:
    centred_BTD = x_BTD - x_BTD.mean(-1, keepdims=True)
    inverse_BT1 = 1 / np.sqrt((centred_BTD * centred_BTD).mean(-1, keepdims=True) + eps)
    unit_BTD = centred_BTD * inverse_BT1
    return unit_BTD * w[f"{name}.weight"] + w[f"{name}.bias"], (unit_BTD, inverse_BT1, w[f"{name}.weight"])


def norm_back(slope_BTD: Array, kept: Any, made: dict[str, Array], name: str) -> Array:
    unit_BTD, inverse_BT1, weight_D = kept
    made[f"{name}.weight"] = flat(slope_BTD * unit_BTD).sum(0)
    made[f"{name}.bias"] = flat(slope_BTD).sum(0)
    slope_BTD = slope_BTD * weight_D
    along_BT1 = (slope_BTD * unit_BTD).mean(-1, keepdims=True)
    return inverse_BT1 * (slope_BTD - slope_BTD.mean(-1, keepdims=True) - unit_BTD * along_BT1)


def linear(x: Array, w: Weights, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def linear_back(slope: Array, x: Array, w: Weights, made: dict[str, Array], name: str) -> Array:
    made[f"{name}.weight"], made[f"{name}.bias"] = flat(slope).T @ flat(x), flat(slope).sum(0)
    return slope @ w[f"{name}.weight"]


def split(x_BTD: Array, heads: int) -> Array:
    return x_BTD.reshape(*x_BTD.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def joined(x_BNTH: Array) -> Array:
    return x_BNTH.transpose(0, 2, 1, 3).reshape(x_BNTH.shape[0], x_BNTH.shape[2], -1)


def attend(x_BTD: Array, w: Weights, at: str, heads: int, eps: float) -> tuple[Array, Any]:
    normed_BTD, before = norm(x_BTD, w, f"{at}input_layernorm", eps)
    query, key, value = (split(linear(normed_BTD, w, f"{at}self_attn.{part}_proj"), heads) for part in "qkv")
    query = query * query.dtype.type(query.shape[-1] ** -0.5)
    scores_BNTT = query @ key.swapaxes(-1, -2)
    scores_BNTT[..., np.triu(np.ones(scores_BNTT.shape[-2:], bool), 1)] = -np.inf
    scores_BNTT -= scores_BNTT.max(-1, keepdims=True)
    shares_BNTT = np.exp(scores_BNTT)
    shares_BNTT /= shares_BNTT.sum(-1, keepdims=True)
    mixed_BTD = joined(shares_BNTT @ value)
    kept = (normed_BTD, before, query, key, value, shares_BNTT, mixed_BTD)
    return x_BTD + linear(mixed_BTD, w, f"{at}self_attn.o_proj"), kept


def attend_back(slope_BTD: Array, w: Weights, made: dict[str, Array], at: str, kept: Any) -> Array:
    normed_BTD, before, query, key, value, shares_BNTT, mixed_BTD = kept
    heads = query.shape[1]
    slope_BNTH = split(linear_back(slope_BTD, mixed_BTD, w, made, f"{at}self_attn.o_proj"), heads)
    to_shares = slope_BNTH @ value.swapaxes(-1, -2)
    to_scores = shares_BNTT * (to_shares - (to_shares * shares_BNTT).sum(-1, keepdims=True))
    to_query = to_scores @ key * key.dtype.type(key.shape[-1] ** -0.5)
    slopes = {"q": to_query, "k": to_scores.swapaxes(-1, -2) @ query, "v": shares_BNTT.swapaxes(-1, -2) @ slope_BNTH}
    back = sum(linear_back(joined(s), normed_BTD, w, made, f"{at}self_attn.{part}_proj") for part, s in slopes.items())
    return slope_BTD + norm_back(np.asarray(back), before, made, f"{at}input_layernorm")


def perceive(x_BTD: Array, w: Weights, at: str, eps: float) -> tuple[Array, Any]:
    normed_BTD, before = norm(x_BTD, w, f"{at}post_attention_layernorm", eps)
    up = linear(normed_BTD, w, f"{at}mlp.up_proj")
    root = up.dtype.type(np.sqrt(2 / np.pi))
    bent = np.tanh(root * (up + up.dtype.type(0.044715) * up * up * up))
    active = up.dtype.type(0.5) * up * (1 + bent)
    return x_BTD + linear(active, w, f"{at}mlp.down_proj"), (normed_BTD, before, up, bent, active, root)


def perceive_back(slope_BTD: Array, w: Weights, made: dict[str, Array], at: str, kept: Any) -> Array:
    normed_BTD, before, up, bent, active, root = kept
    slope = linear_back(slope_BTD, active, w, made, f"{at}mlp.down_proj")
    half, steep = up.dtype.type(0.5), root * (1 + up.dtype.type(3 * 0.044715) * up * up)
    slope = slope * (half * (1 + bent) + half * up * (1 - bent * bent) * steep)
    back = linear_back(slope, normed_BTD, w, made, f"{at}mlp.up_proj")
    return slope_BTD + norm_back(back, before, made, f"{at}post_attention_layernorm")
