"""Build the evaluation context of a model that needs no training."""

from collections.abc import Callable
from typing import Any

from torch import nn

from provenlm.data.token_dataset import TokenDataset
from provenlm.evaluation.probe import EvalContext


def make_untrained_context(model: nn.Module, tokenizer: Any, tokens: TokenDataset, max_seq_len: int, **fields: Any) -> EvalContext:
    """Return the context of a module that maps tokens to logits; `fields` replace the defaults."""
    build: Callable[..., nn.Module] = lambda *arguments: model  # noqa: E731
    defaults: dict[str, Any] = {
        "logits": lambda model, tokens_BT: model(tokens_BT),
        "logits_with_cache": None,
        "build_untrained": build,
        "build_small": build,
        "losses": lambda model, batch: {},
        "train_batch": lambda num_sequences: None,
        "to_hf": None,
        "analytic_counts": {},
        "seed": 0,
    }
    return EvalContext(model=model, tokenizer=tokenizer, tokens=tokens, max_seq_len=max_seq_len, **{**defaults, **fields})
