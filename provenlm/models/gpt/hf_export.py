"""Convert the dense decoder to Llama or GPT-2 of Hugging Face transformers."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from provenlm.models.common.hf_export import HFExport, add_model_prefix, llama_config
from provenlm.models.gpt.config import GPTConfig

GPT2_NAMES = {
    "input_layernorm": "ln_1",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}


def to_hf(config: GPTConfig, vocab_size: int, state_dict: Mapping[str, Tensor]) -> HFExport:
    """Convert the state dict of a GPTModel."""
    if config.variant == "llama":
        return HFExport(llama_config(config, vocab_size, config.num_key_value_heads), add_model_prefix(state_dict))
    return HFExport(gpt2_config(config, vocab_size), dict(gpt2_state_dict(config.num_hidden_layers, state_dict)))


def gpt2_config(config: GPTConfig, vocab_size: int) -> dict[str, object]:
    """Return the config.json of a GPT2LMHeadModel."""
    c = config
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_embd": c.hidden_size,
        "n_inner": c.intermediate_size,
        "n_layer": c.num_hidden_layers,
        "n_head": c.num_attention_heads,
        "n_positions": c.max_position_embeddings,
        "tie_word_embeddings": c.tie_word_embeddings,
        "layer_norm_epsilon": c.norm_eps,
        "activation_function": "gelu_new",
        "attn_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "embd_pdrop": 0.0,
    }


def gpt2_state_dict(num_layers: int, state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield GPT-2's tensors.

    Queries, keys and values are in one matrix, and the matrices of a block are transposed.
    """
    yield "transformer.wte.weight", state_dict["embed_tokens.weight"]
    yield "transformer.wpe.weight", state_dict["embed_positions.weight"]
    for layer in range(num_layers):
        our_prefix, hf_prefix = f"layers.{layer}.", f"transformer.h.{layer}."
        for param in ("weight", "bias"):
            qkv = torch.cat([state_dict[f"{our_prefix}self_attn.{part}_proj.{param}"] for part in "qkv"])
            yield f"{hf_prefix}attn.c_attn.{param}", _transpose_matrix(qkv)
            for name, hf_name in GPT2_NAMES.items():
                yield f"{hf_prefix}{hf_name}.{param}", _transpose_matrix(state_dict[f"{our_prefix}{name}.{param}"])
    for param in ("weight", "bias"):
        yield f"transformer.ln_f.{param}", state_dict[f"norm.{param}"]
    if "lm_head.weight" in state_dict:
        yield "lm_head.weight", state_dict["lm_head.weight"]


def _transpose_matrix(tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor
