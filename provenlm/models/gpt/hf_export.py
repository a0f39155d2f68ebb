"""The decoder as Llama or GPT-2 of Hugging Face's transformers: names, layout and configuration."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from provenlm.models.common.hf_export import Published, below_model
from provenlm.models.gpt.config import Settings

GPT2_NAMES = {
    "input_layernorm": "ln_1",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}


def published(settings: Settings, vocabulary: int, weights: Mapping[str, Tensor]) -> Published:
    """`weights` are the state of a Decoder of these settings."""
    if settings.style == "llama":
        return Published(llama(settings, vocabulary), below_model(weights))
    return Published(gpt2(settings, vocabulary), dict(gpt2_tensors(settings.layers, weights)))


def llama(settings: Settings, vocabulary: int) -> dict[str, object]:
    s = settings
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": s.hidden,
        "intermediate_size": s.inner,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.hidden // s.heads,
        "max_position_embeddings": s.context,
        "tie_word_embeddings": s.tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_theta},
        "rms_norm_eps": s.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": s.dropout,
        "attention_bias": False,
        "mlp_bias": False,
    }


def gpt2(settings: Settings, vocabulary: int) -> dict[str, object]:
    s = settings
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_embd": s.hidden,
        "n_inner": s.inner,
        "n_layer": s.layers,
        "n_head": s.heads,
        "n_positions": s.context,
        "tie_word_embeddings": s.tied,
        "layer_norm_epsilon": s.norm_eps,
        "activation_function": "gelu_new",
        "attn_pdrop": s.dropout,
        "resid_pdrop": s.dropout,
        "embd_pdrop": 0.0,
    }


def gpt2_tensors(layers: int, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """GPT-2 keeps queries, keys and values in one matrix, and every matrix of a block the other way round."""
    yield "transformer.wte.weight", weights["embed_tokens.weight"]
    yield "transformer.wpe.weight", weights["embed_positions.weight"]
    for layer in range(layers):
        ours, theirs = f"layers.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            joined = torch.cat([weights[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"])
            yield f"{theirs}attn.c_attn.{kind}", _turned(joined)
            for own, other in GPT2_NAMES.items():
                yield f"{theirs}{other}.{kind}", _turned(weights[f"{ours}{own}.{kind}"])
    for kind in ("weight", "bias"):
        yield f"transformer.ln_f.{kind}", weights[f"norm.{kind}"]
    if "lm_head.weight" in weights:
        yield "lm_head.weight", weights["lm_head.weight"]


def _turned(tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor
