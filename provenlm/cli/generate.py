"""Generate text with a trained model and stream it to standard output."""

import argparse
import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from provenlm.cli import load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.core import rng
from provenlm.core.errors import ConfigError
from provenlm.core.paths import ProjectPaths
from provenlm.models.generation.logits_provider import LogitsProvider, logits_provider
from provenlm.models.generation.sampling import SamplingConfig, generate, generate_stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("recipe", help="name of an entry of `recipes` in params.yaml whose model has been trained")
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="text to continue; repeatable")
    parser.add_argument(
        "--max-new-tokens", type=int, default=200, metavar="N", help="maximum number of new tokens for each prompt (default: 200)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help="softmax temperature; 0 selects the most probable token (default: 0.8)",
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="sample from the K most probable tokens; 0 disables this (default: 0)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the smallest set of tokens with probability P (default: 1, all tokens)",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="penalize tokens that occurred before if above 1 (default: 1)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed; equal seeds give equal text (default: 0)")
    load_model.add_checkpoint_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print each prompt with its continuation and return 0.

    Return 130 if the reader of the output is gone.
    """
    sampling = parse_sampling(args)
    recipe_model = load_model.load_recipe_model(ProjectPaths(Path.cwd()), args.recipe, args.checkpoint)
    print_status(f"{load_model.display_path(ProjectPaths(Path.cwd()), recipe_model.checkpoint_dir)}, seed {args.seed}")
    try:
        for piece in stream_text(recipe_model, args.prompt, sampling, args.max_new_tokens, args.seed):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()  # suppress the interpreter's complaint about the closed pipe
        return 130
    return 0


def parse_sampling(args: argparse.Namespace) -> SamplingConfig:
    """Build the sampling config from the options.

    Raises ConfigError for an invalid option.
    """
    if args.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens: must be at least 1, got {args.max_new_tokens}")
    if args.temperature == 0 and (args.top_k, args.top_p) != (0, 1.0):
        raise ConfigError("--temperature: must be > 0 with --top-k or --top-p, got 0")
    try:
        return SamplingConfig(args.temperature, args.top_k, args.top_p, args.repetition_penalty)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def stream_text(
    recipe_model: RecipeModel, prompts: Sequence[str], sampling: SamplingConfig, max_new_tokens: int, seed: int
) -> Iterator[str]:
    """Yield the text to print.

    The text of a single prompt comes token by token; several prompts come in sequence when all are complete.
    """
    prompt_ids = [encode_prompt(recipe_model, prompt) for prompt in prompts]
    eos = recipe_model.tokenizer.special_tokens.get("eos")
    generator = torch.Generator().manual_seed(rng.derive_seed(seed, "generate"))
    arguments = (recipe_logits(recipe_model), prompt_ids, sampling, max_new_tokens, eos, generator)
    if len(prompt_ids) == 1:
        yield prompts[0]
        yield from decode_stream(recipe_model, (token_ids[0] for token_ids in generate_stream(*arguments)))
        yield "\n"
        return
    for number, (prompt, continuation) in enumerate(zip(prompts, generate(*arguments), strict=True), start=1):
        yield f"--- {number}\n{prompt}{''.join(decode_stream(recipe_model, iter(continuation)))}\n"


def encode_prompt(recipe_model: RecipeModel, prompt: str) -> list[int]:
    """Encode a prompt.

    Raises ConfigError for an empty prompt if no token starts a document.
    """
    if not (ids := recipe_model.tokenizer.encode_prompt(prompt)):
        raise ConfigError("--prompt: must not be empty, because this tokenizer has no bos token, got ''")
    return ids


def recipe_logits(recipe_model: RecipeModel) -> LogitsProvider:
    """Provide next-token logits of a recipe's model on the CPU."""
    loaded = recipe_model.model
    special_tokens = recipe_model.tokenizer.special_tokens
    return logits_provider(loaded.spec, loaded.model, loaded.metadata.seq_len, special_tokens, torch.device("cpu"))


def decode_stream(recipe_model: RecipeModel, ids: Iterator[int]) -> Iterator[str]:
    """Decode ids to text piece by piece.

    A character that spans several tokens is emitted when it is complete.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token_id in ids:
        yield decoder.decode(recipe_model.tokenizer.decode([token_id]))
    yield decoder.decode(b"", final=True)


def print_status(line: str) -> None:
    """Print a line to standard error; standard output is for generated text only."""
    print(line, file=sys.stderr, flush=True)
