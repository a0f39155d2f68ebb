"""Encode prompts from the command line and from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from provenlm.cli.load_model import RecipeModel
from provenlm.core.errors import ConfigError
from provenlm.core.records import Record


class TokenPrompt(NamedTuple):
    """Hold a prompt as text and as the token ids that the model continues."""

    text: str
    ids: list[int]


def read_prompts(
    recipe_model: RecipeModel, texts: Sequence[str], paths: Sequence[Path], max_tokens: int | None
) -> list[TokenPrompt]:
    """Encode texts and files, by default one empty text.

    Each prompt is cut to `max_tokens` tokens, if given.

    Raises ConfigError for a prompt without tokens and for a file that cannot be read.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"--max-prompt-tokens: must be at least 1, got {max_tokens}")
    prompts = [TokenPrompt(text, encode_prompt(recipe_model, text)) for text in (texts if texts or paths else [""])]
    prompts += [read_prompt_file(recipe_model, path) for path in paths]
    if max_tokens is None:
        return prompts
    cut = [prompt.ids[:max_tokens] for prompt in prompts]
    return [TokenPrompt(recipe_model.tokenizer.describe(ids), ids) for ids in cut]


def read_prompt_file(recipe_model: RecipeModel, path: Path) -> TokenPrompt:
    """Encode the content of a file after the special tokens that begin a document."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--prompt-file: must be a readable file, got {path.as_posix()!r}: {error.strerror}") from None
    tokenizer = recipe_model.tokenizer
    (content_ids,) = tokenizer.encode([Record.from_content(content, "", path.as_posix())])
    ids = [*tokenizer.encode_prompt(""), *content_ids.tolist()]
    if not ids:
        raise ConfigError(f"--prompt-file: must have at least one token, got {path.as_posix()!r}")
    return TokenPrompt(tokenizer.describe(ids), ids)


def encode_prompt(recipe_model: RecipeModel, prompt: str) -> list[int]:
    """Encode a prompt.

    Raises ConfigError for an empty prompt if no token starts a document.
    """
    if not (ids := recipe_model.tokenizer.encode_prompt(prompt)):
        raise ConfigError("--prompt: must not be empty, because this tokenizer has no bos token, got ''")
    return ids
