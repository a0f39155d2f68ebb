"""A trained net in, a folder out that `AutoModelForCausalLM` and `AutoTokenizer` of Hugging Face's transformers load with no code of ours."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save

from provenlm.cli import load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.core import io
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.tokenizers import hf_export as tokenizers

SPECIAL_TOKEN_NAMES = ("bos", "eos", "pad")


def main() -> None:
    """Fill the folder in one rename. Exit 1 with one line on a user's mistake."""
    args = build_parser().parse_args()
    try:
        if args.folder.exists():
            raise ProvenlmError(f"{args.folder}: is there already; name a folder that is not")
        recipe_model = load_model.load_recipe_model(ProjectPaths(Path.cwd()), args.recipe, args.checkpoint)
        contents = export_files(recipe_model)
    except ProvenlmError as error:
        sys.exit(f"export {args.recipe}: {error}")
    with io.atomic_dir(args.folder.absolute()) as folder:
        for name, data in contents.items():
            io.write_bytes(folder / name, data)
    log_line(
        f"export {args.recipe}: {load_model.display_path(ProjectPaths(Path.cwd()), recipe_model.checkpoint_dir)} is now {args.folder} for transformers"
    )


def build_parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(
        prog="python -m provenlm.cli.export",
        description=__doc__,
        epilog="example: python -m provenlm.cli.export docs_moe exported/docs_moe",
    )
    cli.add_argument("recipe", help="a name below `recipes` in params.yaml; its net must have been trained")
    cli.add_argument("folder", type=Path, help="where to write; it must not be there yet")
    load_model.add_checkpoint_option(cli)
    return cli


def export_files(recipe_model: RecipeModel) -> dict[str, bytes]:
    """The files by name: weights, configuration and tokenizer. ProvenlmError for a codec of anything but text."""
    loaded = recipe_model.model
    hf_export = loaded.spec.to_hf(loaded.model_config, loaded.metadata.vocab_size, loaded.model.state_dict())
    special_token_ids = {f"{name}_token_id": recipe_model.tokenizer.special_tokens.get(name) for name in SPECIAL_TOKEN_NAMES}
    return {
        "config.json": _json({**hf_export.config, **special_token_ids, "dtype": "float32"}),
        "generation_config.json": _json(special_token_ids),
        "model.safetensors": save({name: tensor.contiguous() for name, tensor in hf_export.state_dict.items()}, {"format": "pt"}),
        **tokenizers.tokenizer_to_hf(recipe_model.tokenizer, loaded.spec.max_seq_len(loaded.model_config)),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


if __name__ == "__main__":
    main()
