"""Convert a batch of any domain to tensors and JSON, and back."""

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from provenlm.core.errors import CheckpointError


def dump_batch(batch: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a batch's tensors by field, and its class and other fields as JSON."""
    values = {batch_field.name: getattr(batch, batch_field.name) for batch_field in fields(batch)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    batch_type = type(batch)
    metadata = {"module": batch_type.__module__, "type": batch_type.__qualname__}
    return tensors, {**metadata, "fields": {name: value for name, value in values.items() if name not in tensors}}


def load_batch(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Any:
    """Build the batch that `dump_batch` returned.

    Raises CheckpointError unless its class is a dataclass of the package provenlm: a dump must not import other code.
    """
    module, name = metadata["module"], metadata["type"]
    batch_type = getattr(importlib.import_module(module), name, None) if module.startswith("provenlm.") else None
    if not isinstance(batch_type, type) or not is_dataclass(batch_type):
        raise CheckpointError(f"dump: batch.type must be a dataclass of the package provenlm, got {module}.{name}")
    return batch_type(**tensors, **metadata["fields"])
