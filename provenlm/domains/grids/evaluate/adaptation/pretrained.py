"""Load a causal language model of transformers from a folder or the hub.

Code of a repository is never executed, and weights are read from safetensors alone, because other formats can execute code.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from provenlm.core.errors import CheckpointError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
MAX_MESSAGE = 200
MAX_EARLY_CHANGE = 1e-3  # of earlier logits, as a fraction of that of the last ones: rounding


class PretrainedModel(NamedTuple):
    """Hold a causal model in evaluation mode and its tokenizer.

    The tokenizer is None if its folder has none.
    """

    model: nn.Module
    tokenizer: Any | None


def load_pretrained(
    source: str, dtype: torch.dtype = torch.float32, device: str = "cpu", allow_download: bool = False
) -> PretrainedModel:
    """Load a model by the path of its folder, or by its name on the hub.

    Without `allow_download` a hub's model must be in the local cache. Raises CheckpointError with one line that says what to do.
    """
    import huggingface_hub
    import transformers

    is_folder = check_source(source)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        # transformers asks the hub for adapter_config.json even with local_files_only, unless it gets a folder
        folder = source if is_folder else huggingface_hub.snapshot_download(source, local_files_only=not allow_download)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        model, info = loaded
        has_tokenizer = any((Path(folder) / name).exists() for name in TOKENIZER_FILES)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options) if has_tokenizer else None
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError and others for the same faults
        raise CheckpointError(describe_load_error(source, error, allow_download)) from None
    if info["missing_keys"]:
        raise CheckpointError(f"{source}: must hold all weights of {type(model).__name__}, {min(info['missing_keys'])} is missing")
    model = model.to(device).eval()
    if not is_causal(model):
        raise CheckpointError(
            f"{source}: must be a causal language model, but logits of {type(model).__name__} depend on later tokens"
        )
    return PretrainedModel(model, tokenizer)


def check_source(source: str) -> bool:
    """Return whether `source` is a folder; False for the name of a model on the hub.

    Raises CheckpointError if it is a path without a model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise CheckpointError(f"{source}: must be a folder with config.json and *.safetensors, config.json is missing")
        return True
    if path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source}: must be an existing folder, or the name of a model on the hub such as OWNER/NAME")
    return False


def describe_load_error(source: str, error: BaseException, allow_download: bool) -> str:
    """Say on one line why a model did not load and what to do."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{source}: is gated: accept its licence at https://huggingface.co/{source}, then set HF_TOKEN to a token of that account"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"{source}: must be a model on the hub; if it is private, set HF_TOKEN to a token that may read it"
    if any(isinstance(cause, HfHubHTTPError) for cause in causes):
        return f"{source}: the hub must answer, got: {_first_line(causes[-1])}"
    if any(isinstance(cause, LocalEntryNotFoundError | ConnectionError) for cause in causes):
        fault = "the hub cannot be reached" if allow_download else "downloads are not allowed here"
        return f"{source}: is not in the local cache, and {fault}; give the folder of a model instead"
    if "Unrecognized configuration class" in str(error):
        return f"{source}: must be a causal language model, which transformers does not have for this config.json"
    return f"{source}: must be a model of transformers with *.safetensors, got {type(error).__name__}: {_first_line(error)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_MESSAGE]


@torch.no_grad()
def is_causal(model: nn.Module) -> bool:
    """Return whether the last token leaves the logits before it as they are."""
    device = next(model.parameters()).device
    tokens_BT = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=device)
    first_TV, second_TV = model(input_ids=tokens_BT).logits.float()
    change_T = (first_TV - second_TV).abs().amax(-1)
    return bool(change_T[:-1].max() <= MAX_EARLY_CHANGE * change_T[-1])
