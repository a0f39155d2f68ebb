"""Count the parameters and memory of fine-tuning on the meta device.

Tensors there have shapes and no bytes: a config is enough, no weights are loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.domains.grids.evaluate.adaptation.adapted_model import inject_adapters
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig
from provenlm.domains.grids.evaluate.adaptation.fine_tuning import recomputed_activations

# config.json of meta-llama/Llama-3.2-1B at revision 4e20de362430cd3b72f300e6b0f18e50e7166e08
LLAMA_3_2_1B: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
}
COUNTED_ATTENTION = "provenlm_counted"
ADAM_BYTES = 8  # two moments in float32 for each trainable parameter


@dataclass(frozen=True)
class FineTuningMemory:
    """Hold the counts of one fine-tuning step.

    Bytes are those of tensors, without what an allocator adds. `saved_bytes` are the tensors that the forward pass keeps for the backward pass. Temporary tensors are not
    included, nor is the block that is computed again where activations are.
    """

    num_params: int
    num_trainable_params: int
    num_adapted_layers: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    saved_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the sum of all."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.saved_bytes


def count_fine_tuning_memory(
    model_config: Mapping[str, Any],
    adapter: AdapterConfig,
    batch_size: int,
    seq_len: int,
    num_targets: int,
    dtype: torch.dtype = torch.bfloat16,
    recompute: bool = False,
) -> FineTuningMemory:
    """Count one step on `batch_size` sequences of `seq_len` tokens.

    The last `num_targets` of each carry loss.
    """
    import transformers

    transformers.AttentionInterface.register(COUNTED_ATTENTION, count_flash_attention)
    fields = {name: value for name, value in model_config.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(model_config["model_type"], **fields)
    with torch.device("meta"):
        auto: Any = transformers.AutoModelForCausalLM
        model: nn.Module = auto.from_config(config, dtype=dtype, attn_implementation=COUNTED_ATTENTION)
        num_params = sum(parameter.numel() for parameter in model.parameters())
        targets = inject_adapters(model, adapter)[1] if adapter.method == "lora" else ()
        tokens_BT = torch.zeros(batch_size, seq_len, dtype=torch.int64)
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_trainable = sum(parameter.numel() for parameter in trainable)
    with recomputed_activations(model, recompute):
        saved_bytes = count_saved_bytes(model, tokens_BT, num_targets)
    return FineTuningMemory(
        num_params=num_params,
        num_trainable_params=num_trainable,
        num_adapted_layers=len(targets),
        weight_bytes=sum(parameter.nbytes for parameter in model.parameters()),
        gradient_bytes=sum(parameter.nbytes for parameter in trainable),
        optimizer_bytes=ADAM_BYTES * num_trainable,
        saved_bytes=saved_bytes,
    )


def count_flash_attention(
    module: nn.Module, query_BNTH: Tensor, key_BGTH: Tensor, value_BGTH: Tensor, *arguments: Any, **options: Any
) -> tuple[Tensor, None]:
    """Compute causal attention by the kernel that stores no matrix of scores.

    On the meta device torch would choose one that does.
    """
    groups = query_BNTH.shape[1] // key_BGTH.shape[1]
    key_BNTH, value_BNTH = (heads.repeat_interleave(groups, 1) for heads in (key_BGTH, value_BGTH))
    attended_BNTH: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query_BNTH, key_BNTH, value_BNTH, 0.0, True)[0]
    return attended_BNTH.transpose(1, 2), None


def count_saved_bytes(model: nn.Module, tokens_BT: Tensor, num_targets: int) -> int:
    """Count the bytes that a forward pass keeps for the backward pass.

    Parameters do not count.
    """
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept, because a freed storage's number is used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits_BTV = model(input_ids=tokens_BT, use_cache=False, logits_to_keep=num_targets).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, -num_targets:].flatten())
    num_bytes = sum(storage.nbytes() for storage in storages.values())
    del loss
    return num_bytes
