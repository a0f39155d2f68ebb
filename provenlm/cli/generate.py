"""A trained net and prompts in, what it goes on to write out, as it writes it."""

import argparse
import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from provenlm.cli import load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.core import rng
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.models.generation.sampling import CachedLogits, SamplingConfig, generate, generate_stream
from provenlm.training import sample_generator


def main() -> None:
    """Write each prompt and its continuation to standard output. Exit 1 with one line on a user's mistake."""
    args = build_parser().parse_args()
    try:
        sampling = parse_sampling(args)
        recipe_model = load_model.load_recipe_model(ProjectPaths(Path.cwd()), args.recipe, args.checkpoint)
        print_status(f"{load_model.display_path(ProjectPaths(Path.cwd()), recipe_model.checkpoint_dir)}, seed {args.seed}")
        for piece in stream_text(recipe_model, args.prompt, sampling, args.tokens, args.seed):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except ProvenlmError as error:
        sys.exit(f"generate {args.recipe}: {error}")
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()  # whoever read us has seen enough
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(
        prog="python -m provenlm.cli.generate",
        description=__doc__,
        epilog='example: python -m provenlm.cli.generate docs_moe --prompt "def " --temperature 0.8 --top-p 0.95',
    )
    cli.add_argument("recipe", help="a name below `recipes` in params.yaml; its net must have been trained")
    cli.add_argument(
        "--prompt", action="append", required=True, metavar="TEXT", help="what to go on from; may be given more than once"
    )
    cli.add_argument("--tokens", type=int, default=200, metavar="N", help="most tokens to write for each prompt (default: 200)")
    cli.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: always the most probable token (default: 0.8)")
    cli.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens alone; 0: from all (default)"
    )
    cli.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="draw from the fewest tokens that reach P (default: 1, all)"
    )
    cli.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: write less of what stands there (default: 1)"
    )
    cli.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed writes the same text (default: 0)")
    load_model.add_checkpoint_option(cli)
    return cli


def parse_sampling(args: argparse.Namespace) -> SamplingConfig:
    """ProvenlmError in the words of the command line if the numbers mean nothing."""
    if args.tokens < 1:
        raise ProvenlmError(f"--tokens {args.tokens}: at least 1 would be right")
    if args.temperature == 0 and (args.top_k, args.top_p) != (0, 1.0):
        raise ProvenlmError("--temperature 0 takes the most probable token and reads neither --top-k nor --top-p: leave them out")
    try:
        return SamplingConfig(args.temperature, args.top_k, args.top_p, args.repetition_penalty)
    except ValueError as error:
        raise ProvenlmError(str(error)) from None


def stream_text(
    recipe_model: RecipeModel, prompts: Sequence[str], sampling: SamplingConfig, max_new_tokens: int, seed: int
) -> Iterator[str]:
    """The text in the order in which it is to be shown: of one prompt token by token, of several one after the other when all are done."""
    prompt_ids = [encode_prompt(recipe_model, prompt) for prompt in prompts]
    stop, generator = (
        recipe_model.tokenizer.special_tokens.get("eos"),
        torch.Generator().manual_seed(rng.derive_seed(seed, "generate")),
    )
    arguments = (make_cached_logits(recipe_model), prompt_ids, sampling, max_new_tokens, stop, generator)
    if len(prompt_ids) == 1:
        yield prompts[0]
        yield from decode_stream(recipe_model, (token_ids[0] for token_ids in generate_stream(*arguments)))
        yield "\n"
        return
    for number, (prompt, continuation) in enumerate(zip(prompts, generate(*arguments), strict=True), start=1):
        yield f"--- {number}\n{prompt}{''.join(decode_stream(recipe_model, iter(continuation)))}\n"


def encode_prompt(recipe_model: RecipeModel, prompt: str) -> list[int]:
    if not (ids := recipe_model.tokenizer.encode_prompt(prompt)):
        raise ProvenlmError("--prompt '': this codec has no token that begins a text, so a prompt needs at least one character")
    return ids


def make_cached_logits(recipe_model: RecipeModel) -> CachedLogits:
    loaded_model = recipe_model.model
    return sample_generator.make_logits_provider(
        loaded_model.spec,
        loaded_model.model,
        recipe_model.tokenizer.special_tokens,
        loaded_model.metadata.seq_len,
        torch.device("cpu"),
    )


def decode_stream(recipe_model: RecipeModel, ids: Iterator[int]) -> Iterator[str]:
    """Text as far as it is whole: a character may need more than one token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token_id in ids:
        yield decoder.decode(recipe_model.tokenizer.decode([token_id]))
    yield decoder.decode(b"", final=True)


def print_status(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
