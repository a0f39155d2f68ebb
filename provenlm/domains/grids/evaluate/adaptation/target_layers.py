"""Find the layers of a model that adapters can be added to.

These are torch's Linear and transformers' Conv1D (the linear layer of GPT-2, with a transposed matrix). The output embedding is left out.
"""

import re
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from provenlm.core.errors import ConfigError

OUTPUT_EMBEDDINGS = ("lm_head", "head", "output_head", "embed_out")  # names of it in models that do not tell
MAX_LISTED = 40


def adaptable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Map the names of all layers that can be adapted to the layers."""
    from transformers.pytorch_utils import Conv1D

    excluded = output_embedding_names(model)
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and name not in excluded
    }


def output_embedding_names(model: nn.Module) -> set[str]:
    """Return the names of the layers that turn hidden states into logits.

    A model of transformers tells its own. Elsewhere it is a linear layer with a usual name, or one that shares its matrix with an embedding.
    """
    get_output_embeddings = getattr(model, "get_output_embeddings", None)
    output = get_output_embeddings() if callable(get_output_embeddings) else None
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}

    def is_output(name: str, module: nn.Module) -> bool:
        """Return whether a module is the output embedding."""
        weight: Tensor | None = getattr(module, "weight", None)
        return output is module or (isinstance(module, nn.Linear) and (name in OUTPUT_EMBEDDINGS or id(weight) in tied))

    return {name for name, module in model.named_modules() if is_output(name, module)}


def resolve_target_modules(model: nn.Module, target_modules: Literal["auto"] | Sequence[str]) -> dict[str, nn.Module]:
    """Map the full names of the layers that `target_modules` means to the layers.

    A pattern means the modules whose name is the pattern or ends with `.pattern`. Raises ConfigError, listing the model's layers, if a
    pattern matches none, or a module that cannot be adapted.
    """
    layers = adaptable_layers(model)
    if not layers:
        raise ConfigError(f"target_modules: {type(model).__name__} has no Linear or Conv1D layer beside its output embedding")
    if target_modules == "auto":
        return layers
    targets: dict[str, nn.Module] = {}
    for pattern in target_modules:
        matches = [name for name, _ in model.named_modules() if matches_end(name, pattern)]
        if not matches:
            raise ConfigError(
                f"target_modules: {pattern!r} matches no layer of {type(model).__name__}; its layers: {list_layers(layers)}"
            )
        if unfit := [name for name in matches if name not in layers]:
            raise ConfigError(
                f"target_modules: {pattern!r} matches {unfit[0]} ({type(model.get_submodule(unfit[0])).__name__}), which takes no adapter; "
                f"layers of {type(model).__name__} that do: {list_layers(layers)}"
            )
        targets |= {name: layers[name] for name in matches}
    return targets


def matches_end(name: str, pattern: str) -> bool:
    """Return whether a module's name is `pattern` or ends with its parts."""
    return name == pattern or name.endswith(f".{pattern}")


def list_layers(layers: dict[str, nn.Module]) -> str:
    """Return the names of layers on one line.

    Those of a stack are one: `h.*.attn.c_attn (Conv1D × 12)`.
    """
    counts: dict[tuple[str, str], int] = {}
    for name, module in layers.items():
        key = (re.sub(r"(?<![^.])\d+(?![^.])", "*", name), type(module).__name__)
        counts[key] = counts.get(key, 0) + 1
    texts = [f"{name} ({kind}{f' × {count}' if count > 1 else ''})" for (name, kind), count in counts.items()]
    return ", ".join(texts[:MAX_LISTED]) + (f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else "")


def resolve_trained_modules(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Map the names of the parameters of some modules to the parameters.

    `patterns` are ends of names of modules. Raises ConfigError, listing the modules with parameters of their own, if a pattern matches none.
    """
    parameters: dict[str, nn.Parameter] = {}
    for pattern in patterns:
        matches = {
            f"{module_name}.{name}": parameter
            for module_name, module in model.named_modules()
            if matches_end(module_name, pattern)
            for name, parameter in module.named_parameters()
        }
        if not matches:
            own = {
                name: module for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
            }
            raise ConfigError(
                f"trained_modules: {pattern!r} matches no weights of {type(model).__name__}; its modules: {list_layers(own)}"
            )
        parameters |= matches
    return parameters
