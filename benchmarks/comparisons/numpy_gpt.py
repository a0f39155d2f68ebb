"""Compute loss and gradients of our GPT-2 variant in NumPy.

The backward passes are written by hand.

Shapes: B sequences, T positions, D hidden, N heads, H head dimension, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WeightMap = Mapping[str, Array]


def loss_and_gradients(
    weights: WeightMap, heads: int, eps: float, inputs_BT: Array, targets_BT: Array
) -> tuple[float, dict[str, Array]]:
    """Return the mean cross-entropy of all targets and its gradients by weight name."""
    w, gradients = weights, {}
    layers = sum(name.endswith("q_proj.weight") for name in w)
    x_BTD = w["embed_tokens.weight"][inputs_BT] + w["embed_positions.weight"][: inputs_BT.shape[1]]
    saved = []
    for n in range(layers):
        x_BTD, attention = attention_forward(x_BTD, w, f"layers.{n}.", heads, eps)
        x_BTD, mlp = mlp_forward(x_BTD, w, f"layers.{n}.", eps)
        saved.append((attention, mlp))
    normed_BTD, final_norm = layer_norm(x_BTD, w, "norm", eps)
    logits_BTV = normed_BTD @ w["lm_head.weight"].T
    logits_BTV -= logits_BTV.max(-1, keepdims=True)
    exp_BTV = np.exp(logits_BTV)
    sums_BT1 = exp_BTV.sum(-1, keepdims=True)
    target_index = np.arange(targets_BT.size), targets_BT.ravel()
    loss = float((np.log(sums_BT1.ravel()) - logits_BTV.reshape(targets_BT.size, -1)[target_index]).mean())
    grad_BTV = exp_BTV / sums_BT1
    grad_BTV.reshape(targets_BT.size, -1)[target_index] -= 1
    grad_BTV /= targets_BT.size
    gradients["lm_head.weight"] = flatten_tokens(grad_BTV).T @ flatten_tokens(normed_BTD)
    grad_BTD = layer_norm_backward(grad_BTV @ w["lm_head.weight"], final_norm, gradients, "norm")
    for n in reversed(range(layers)):
        attention, mlp = saved[n]
        grad_BTD = mlp_backward(grad_BTD, w, gradients, f"layers.{n}.", mlp)
        grad_BTD = attention_backward(grad_BTD, w, gradients, f"layers.{n}.", attention)
    gradients["embed_positions.weight"] = np.zeros_like(w["embed_positions.weight"])
    gradients["embed_positions.weight"][: inputs_BT.shape[1]] = grad_BTD.sum(0)
    gradients["embed_tokens.weight"] = np.zeros_like(w["embed_tokens.weight"])
    np.add.at(gradients["embed_tokens.weight"], inputs_BT, grad_BTD)
    return loss, gradients


def flatten_tokens(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def layer_norm(x_BTD: Array, w: WeightMap, name: str, eps: float) -> tuple[Array, Any]:
    centred_BTD = x_BTD - x_BTD.mean(-1, keepdims=True)
    inverse_BT1 = 1 / np.sqrt((centred_BTD * centred_BTD).mean(-1, keepdims=True) + eps)
    unit_BTD = centred_BTD * inverse_BT1
    return unit_BTD * w[f"{name}.weight"] + w[f"{name}.bias"], (unit_BTD, inverse_BT1, w[f"{name}.weight"])


def layer_norm_backward(grad_BTD: Array, saved: Any, gradients: dict[str, Array], name: str) -> Array:
    unit_BTD, inverse_BT1, weight_D = saved
    gradients[f"{name}.weight"] = flatten_tokens(grad_BTD * unit_BTD).sum(0)
    gradients[f"{name}.bias"] = flatten_tokens(grad_BTD).sum(0)
    grad_BTD = grad_BTD * weight_D
    along_BT1 = (grad_BTD * unit_BTD).mean(-1, keepdims=True)
    return inverse_BT1 * (grad_BTD - grad_BTD.mean(-1, keepdims=True) - unit_BTD * along_BT1)


def linear(x: Array, w: WeightMap, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def linear_backward(grad: Array, x: Array, w: WeightMap, gradients: dict[str, Array], name: str) -> Array:
    gradients[f"{name}.weight"], gradients[f"{name}.bias"] = flatten_tokens(grad).T @ flatten_tokens(x), flatten_tokens(grad).sum(0)
    return grad @ w[f"{name}.weight"]


def split_heads(x_BTD: Array, heads: int) -> Array:
    return x_BTD.reshape(*x_BTD.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x_BNTH: Array) -> Array:
    return x_BNTH.transpose(0, 2, 1, 3).reshape(x_BNTH.shape[0], x_BNTH.shape[2], -1)


def attention_forward(x_BTD: Array, w: WeightMap, prefix: str, heads: int, eps: float) -> tuple[Array, Any]:
    normed_BTD, saved_norm = layer_norm(x_BTD, w, f"{prefix}input_layernorm", eps)
    query, key, value = (split_heads(linear(normed_BTD, w, f"{prefix}self_attn.{part}_proj"), heads) for part in "qkv")
    query = query * query.dtype.type(query.shape[-1] ** -0.5)
    scores_BNTT = query @ key.swapaxes(-1, -2)
    scores_BNTT[..., np.triu(np.ones(scores_BNTT.shape[-2:], bool), 1)] = -np.inf
    scores_BNTT -= scores_BNTT.max(-1, keepdims=True)
    probs_BNTT = np.exp(scores_BNTT)
    probs_BNTT /= probs_BNTT.sum(-1, keepdims=True)
    mixed_BTD = merge_heads(probs_BNTT @ value)
    saved = (normed_BTD, saved_norm, query, key, value, probs_BNTT, mixed_BTD)
    return x_BTD + linear(mixed_BTD, w, f"{prefix}self_attn.o_proj"), saved


def attention_backward(grad_BTD: Array, w: WeightMap, gradients: dict[str, Array], prefix: str, saved: Any) -> Array:
    normed_BTD, saved_norm, query, key, value, probs_BNTT, mixed_BTD = saved
    heads = query.shape[1]
    grad_BNTH = split_heads(linear_backward(grad_BTD, mixed_BTD, w, gradients, f"{prefix}self_attn.o_proj"), heads)
    grad_probs = grad_BNTH @ value.swapaxes(-1, -2)
    grad_scores = probs_BNTT * (grad_probs - (grad_probs * probs_BNTT).sum(-1, keepdims=True))
    grad_query = grad_scores @ key * key.dtype.type(key.shape[-1] ** -0.5)
    grads = {"q": grad_query, "k": grad_scores.swapaxes(-1, -2) @ query, "v": probs_BNTT.swapaxes(-1, -2) @ grad_BNTH}
    grad_normed = sum(
        linear_backward(merge_heads(grad), normed_BTD, w, gradients, f"{prefix}self_attn.{part}_proj")
        for part, grad in grads.items()
    )
    return grad_BTD + layer_norm_backward(np.asarray(grad_normed), saved_norm, gradients, f"{prefix}input_layernorm")


def mlp_forward(x_BTD: Array, w: WeightMap, prefix: str, eps: float) -> tuple[Array, Any]:
    normed_BTD, saved_norm = layer_norm(x_BTD, w, f"{prefix}post_attention_layernorm", eps)
    up = linear(normed_BTD, w, f"{prefix}mlp.up_proj")
    root = up.dtype.type(np.sqrt(2 / np.pi))
    tanh = np.tanh(root * (up + up.dtype.type(0.044715) * up * up * up))
    active = up.dtype.type(0.5) * up * (1 + tanh)
    return x_BTD + linear(active, w, f"{prefix}mlp.down_proj"), (normed_BTD, saved_norm, up, tanh, active, root)


def mlp_backward(grad_BTD: Array, w: WeightMap, gradients: dict[str, Array], prefix: str, saved: Any) -> Array:
    normed_BTD, saved_norm, up, tanh, active, root = saved
    grad = linear_backward(grad_BTD, active, w, gradients, f"{prefix}mlp.down_proj")
    half, inner_grad = up.dtype.type(0.5), root * (1 + up.dtype.type(3 * 0.044715) * up * up)
    grad = grad * (half * (1 + tanh) + half * up * (1 - tanh * tanh) * inner_grad)
    grad_normed = linear_backward(grad, normed_BTD, w, gradients, f"{prefix}mlp.up_proj")
    return grad_BTD + layer_norm_backward(grad_normed, saved_norm, gradients, f"{prefix}post_attention_layernorm")
