"""Build tiny random models of three architectures, and lessons for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.losses import objectives
from provenlm.models.gpt.model import build_gpt

VOCAB_SIZE = 32
NAMES = ("gpt2", "llama", "provenlm")


def tiny_model(name: str) -> nn.Module:
    """Build a model of two layers with random weights, all different from zero."""
    import transformers

    ids = {"bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "gpt2":
            config = transformers.GPT2Config(vocab_size=VOCAB_SIZE, n_positions=64, n_embd=32, n_layer=2, n_head=2, **ids)
            return transformers.GPT2LMHeadModel(config).eval()
        if name == "llama":
            sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 64}
            heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCAB_SIZE, **sizes, **heads, **ids)).eval()
        own_config = GPTConfig(
            hidden_size=32, num_hidden_layers=2, intermediate_size=48, max_position_embeddings=64, tie_word_embeddings=False
        )
        own = build_gpt(own_config, VOCAB_SIZE)
        for parameter in own.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, 0.0, 0.1)  # residual projections begin at zero
        return own.eval()


def logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Return the logits of any model."""
    output = model(tokens_BT)
    return output if isinstance(output, Tensor) else output.logits


def mean_loss(model: nn.Module) -> Callable[[Any], Tensor]:
    """Return the loss of any model on a TokenBatch."""
    if not hasattr(model, "config"):
        return lambda batch: objectives(model, IGNORE)[0].loss(batch)["loss"]
    return lambda batch: F.cross_entropy(
        logits(model, batch.inputs_BT).flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE
    )


def tokens(num_sequences: int = 4, seed: int = 1) -> Tensor:
    """Return random tokens, 13 a sequence."""
    return torch.randint(VOCAB_SIZE, (num_sequences, 13), generator=torch.Generator().manual_seed(seed))


class RandomLessons:
    """Hold lessons of random tokens, with targets at the last 1, 2, 3, … positions."""

    def __init__(self, num_lessons: int = 4) -> None:
        tokens_BT = tokens(num_lessons)
        self.inputs_BT, self.targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:].clone()
        for i, targets_T in enumerate(self.targets_BT):
            targets_T[: 11 - i] = IGNORE

    def __len__(self) -> int:
        return len(self.inputs_BT)

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """Return lessons as a batch."""
        return TokenBatch(self.inputs_BT[list(indices)], self.targets_BT[list(indices)])
