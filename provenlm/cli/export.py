"""A trained net in, a folder out that `AutoModelForCausalLM` and `AutoTokenizer` of Hugging Face's transformers load with no code of ours."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save

from provenlm.cli import load_model
from provenlm.cli.load_model import Trained
from provenlm.core import io
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.core.progress import say
from provenlm.tokenizers import hf_export as tokenizers

SPECIAL = ("bos", "eos", "pad")


def main() -> None:
    """Fill the folder in one rename. Exit 1 with one line on a user's mistake."""
    asked = parser().parse_args()
    try:
        if asked.folder.exists():
            raise UserError(f"{asked.folder}: is there already; name a folder that is not")
        found = load_model.read(Layout(Path.cwd()), asked.recipe, asked.checkpoint)
        contents = exported(found)
    except UserError as error:
        sys.exit(f"export {asked.recipe}: {error}")
    with io.new_folder(asked.folder.absolute()) as folder:
        for name, data in contents.items():
            io.write_bytes(folder / name, data)
    say(f"export {asked.recipe}: {load_model.shown(Layout(Path.cwd()), found.folder)} is now {asked.folder} for transformers")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m provenlm.cli.export",
        description=__doc__,
        epilog="example: python -m provenlm.cli.export docs_moe exported/docs_moe",
    )
    made.add_argument("recipe", help="a name below `recipes` in params.yaml; its net must have been trained")
    made.add_argument("folder", type=Path, help="where to write; it must not be there yet")
    load_model.add_checkpoint(made)
    return made


def exported(found: Trained) -> dict[str, bytes]:
    """The files by name: weights, configuration and tokenizer. UserError for a codec of anything but text."""
    loaded = found.net
    net = loaded.net.published(loaded.settings, loaded.described.vocabulary, loaded.model.state_dict())
    special = {f"{name}_token_id": found.codec.special.get(name) for name in SPECIAL}
    return {
        "config.json": _json({**net.config, **special, "dtype": "float32"}),
        "generation_config.json": _json(special),
        "model.safetensors": save({name: tensor.contiguous() for name, tensor in net.tensors.items()}, {"format": "pt"}),
        **tokenizers.published(found.codec, loaded.net.context(loaded.settings)),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


if __name__ == "__main__":
    main()
