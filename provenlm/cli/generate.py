"""A trained net and prompts in, what it goes on to write out, as it writes it."""

import argparse
import codecs
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from provenlm.cli import load_model
from provenlm.cli.load_model import Trained
from provenlm.core import rng
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.models.generation.sampling import Cached, Sampling, generate, stream
from provenlm.training import sample_generator


def main() -> None:
    """Write each prompt and its continuation to standard output. Exit 1 with one line on a user's mistake."""
    asked = parser().parse_args()
    try:
        sampling = sampling_of(asked)
        found = load_model.read(Layout(Path.cwd()), asked.recipe, asked.checkpoint)
        say(f"{load_model.shown(Layout(Path.cwd()), found.folder)}, seed {asked.seed}")
        for piece in pieces(found, asked.prompt, sampling, asked.tokens, asked.seed):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except UserError as error:
        sys.exit(f"generate {asked.recipe}: {error}")
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()  # whoever read us has seen enough
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m provenlm.cli.generate",
        description=__doc__,
        epilog='example: python -m provenlm.cli.generate docs_moe --prompt "def " --temperature 0.8 --top-p 0.95',
    )
    made.add_argument("recipe", help="a name below `recipes` in params.yaml; its net must have been trained")
    made.add_argument(
        "--prompt", action="append", required=True, metavar="TEXT", help="what to go on from; may be given more than once"
    )
    made.add_argument("--tokens", type=int, default=200, metavar="N", help="most tokens to write for each prompt (default: 200)")
    made.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: always the most probable token (default: 0.8)"
    )
    made.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens alone; 0: from all (default)"
    )
    made.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="draw from the fewest tokens that reach P (default: 1, all)"
    )
    made.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: write less of what stands there (default: 1)"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed writes the same text (default: 0)")
    load_model.add_checkpoint(made)
    return made


def sampling_of(asked: argparse.Namespace) -> Sampling:
    """UserError in the words of the command line if the numbers mean nothing."""
    if asked.tokens < 1:
        raise UserError(f"--tokens {asked.tokens}: at least 1 would be right")
    if asked.temperature == 0 and (asked.top_k, asked.top_p) != (0, 1.0):
        raise UserError("--temperature 0 takes the most probable token and reads neither --top-k nor --top-p: leave them out")
    try:
        return Sampling(asked.temperature, asked.top_k, asked.top_p, asked.repetition_penalty)
    except ValueError as error:
        raise UserError(str(error)) from None


def pieces(found: Trained, prompts: Sequence[str], sampling: Sampling, most: int, seed: int) -> Iterator[str]:
    """The text in the order in which it is to be shown: of one prompt token by token, of several one after the other when all are done."""
    rows = [ids_of(found, prompt) for prompt in prompts]
    stop, random = found.codec.special.get("eos"), torch.Generator().manual_seed(rng.seed_of(seed, "generate"))
    ask = (reader(found), rows, sampling, most, stop, random)
    if len(rows) == 1:
        yield prompts[0]
        yield from decoded(found, (drawn[0] for drawn in stream(*ask)))
        yield "\n"
        return
    for number, (prompt, row) in enumerate(zip(prompts, generate(*ask), strict=True), start=1):
        yield f"--- {number}\n{prompt}{''.join(decoded(found, iter(row)))}\n"


def ids_of(found: Trained, prompt: str) -> list[int]:
    if not (ids := found.codec.prompt(prompt)):
        raise UserError("--prompt '': this codec has no token that begins a text, so a prompt needs at least one character")
    return ids


def reader(found: Trained) -> Cached:
    loaded = found.net
    return sample_generator.reader(loaded.net, loaded.model, found.codec.special, loaded.described.length, torch.device("cpu"))


def decoded(found: Trained, ids: Iterator[int]) -> Iterator[str]:
    """Text as far as it is whole: a character may need more than one token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for identity in ids:
        yield decoder.decode(found.codec.decode([identity]))
    yield decoder.decode(b"", final=True)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
