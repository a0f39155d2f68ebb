"""Load the weights of a trained model into a new one of the same shapes."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from provenlm.core.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"


def load_base_weights(model: nn.Module, folder: Path) -> None:
    """Load `model.safetensors` of a folder that training wrote.

    Names and shapes of all tensors must be those of `model`; token ids must mean the same. Raises CheckpointError if they differ or the
    file cannot be read.
    """
    path = folder / WEIGHTS_FILE
    try:
        model.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise CheckpointError(f"{path.as_posix()}: must hold the weights of a model of the same config, got: {message}") from None
