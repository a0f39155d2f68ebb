"""Export a trained model and its tokenizer as a folder for plain `transformers`."""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from provenlm.cli import load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.core import io
from provenlm.core.errors import ConfigError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.models.common.spec import require_capability
from provenlm.tokenizers.hf_export import tokenizer_to_hf

SPECIAL_TOKEN_NAMES = ("bos", "eos", "pad")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("recipe", help="name of an entry of `recipes` in params.yaml whose model has been trained")
    parser.add_argument("folder", type=Path, help="output folder; must not exist")
    load_model.add_checkpoint_option(parser)


def main(args: argparse.Namespace) -> int:
    """Write the folder atomically and return 0.

    Raises ConfigError if the folder exists.
    """
    if args.folder.exists():
        raise ConfigError(f"{args.folder}: must not exist yet")
    recipe_model = load_model.load_recipe_model(ProjectPaths(Path.cwd()), args.recipe, args.checkpoint)
    contents = export_files(recipe_model)
    with io.atomic_dir(args.folder.absolute()) as folder:
        for name, data in contents.items():
            io.write_bytes(folder / name, data)
    checkpoint_path = load_model.display_path(ProjectPaths(Path.cwd()), recipe_model.checkpoint_dir)
    log_line(f"export {args.recipe}: wrote {checkpoint_path} to {args.folder} for Hugging Face transformers")
    return 0


def export_files(recipe_model: RecipeModel) -> dict[str, bytes]:
    """Return the files by name: weights, configuration and tokenizer.

    Raises ConfigError if the model or the tokenizer has no Hugging Face form.
    """
    loaded_model = recipe_model.model
    require_capability(loaded_model.spec, "hf_export", "model to export")
    assert loaded_model.spec.to_hf is not None
    hf_export = loaded_model.spec.to_hf(
        loaded_model.model_config, loaded_model.metadata.vocab_size, loaded_model.model.state_dict()
    )
    special_token_ids = {f"{name}_token_id": recipe_model.tokenizer.special_tokens.get(name) for name in SPECIAL_TOKEN_NAMES}
    return {
        "config.json": _json({**hf_export.config, **special_token_ids, "dtype": "float32"}),
        "generation_config.json": _json(special_token_ids),
        "model.safetensors": save({name: tensor.contiguous() for name, tensor in hf_export.state_dict.items()}, {"format": "pt"}),
        **tokenizer_to_hf(recipe_model.tokenizer, loaded_model.spec.max_seq_len(loaded_model.model_config)),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
