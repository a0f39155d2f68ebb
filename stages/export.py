"""A trained net in, a folder out that `AutoModelForCausalLM` and `AutoTokenizer` of Hugging Face's transformers load with no code of ours."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save

from provenlm.core import files
from provenlm.core.errors import UserError
from provenlm.core.layout import Layout
from provenlm.core.progress import say
from provenlm.tokens import published as tokenizers
from stages import trained
from stages.trained import Trained

SPECIAL = ("bos", "eos", "pad")


def main() -> None:
    """Fill the folder in one rename. Exit 1 with one line on a user's mistake."""
    asked = parser().parse_args()
    try:
        if asked.folder.exists():
            raise UserError(f"{asked.folder}: is there already; name a folder that is not")
        found = trained.read(Layout(Path.cwd()), asked.recipe, asked.checkpoint)
        contents = exported(found)
    except UserError as error:
        sys.exit(f"export {asked.recipe}: {error}")
    with files.new_folder(asked.folder.absolute()) as folder:
        for name, data in contents.items():
            files.write_bytes(folder / name, data)
    say(f"export {asked.recipe}: {trained.shown(Layout(Path.cwd()), found.folder)} is now {asked.folder} for transformers")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m stages.export", description=__doc__, epilog="example: python -m stages.export docs_moe exported/docs_moe"
    )
    made.add_argument("recipe", help="a name below `recipes` in params.yaml; its net must have been trained")
    made.add_argument("folder", type=Path, help="where to write; it must not be there yet")
    trained.add_checkpoint(made)
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
