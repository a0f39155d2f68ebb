"""Generate text on standard output, or files in the formats of a domain."""

import argparse
import codecs
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from provenlm.cli import load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.cli.prompts import TokenPrompt, read_prompts
from provenlm.core import io, registry, rng
from provenlm.core.errors import ConfigError
from provenlm.core.paths import ProjectPaths
from provenlm.evaluation.probe import ValidateSpec
from provenlm.models.common.spec import capabilities
from provenlm.models.generation.latent_generation import generate_from_latents
from provenlm.models.generation.logits_provider import LogitsProvider, logits_provider
from provenlm.models.generation.sampling import SamplingConfig, generate, generate_stream

Formats = Mapping[str, Callable[[bytes], bytes]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("recipe", help="name of an entry of `recipes` in params.yaml whose model has been trained")
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="text to continue; repeatable (default: the beginning of a document)",
    )
    parser.add_argument(
        "--prompt-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="file to continue, such as a MIDI file for a model of music; repeatable",
    )
    parser.add_argument(
        "--max-prompt-tokens", type=int, metavar="N", help="continue the first N tokens of each prompt only (default: all of them)"
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="write the prompt with its continuation to FILE instead of standard output, in the format of its suffix: .mid, .svg or .wav "
        "for music, text for all others; repeatable; with several prompts, the files are numbered",
    )
    parser.add_argument(
        "--num-latents",
        type=int,
        default=16,
        metavar="N",
        help="for a model with latents, such as a VAE: number of latents to sample from its prior, for music one a bar (default: 16)",
    )
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
    """Print each prompt with its continuation, or write it to files, and return 0.

    Return 130 if the reader of the output is gone.
    """
    sampling = parse_sampling(args)
    recipe_model = load_model.load_recipe_model(ProjectPaths(Path.cwd()), args.recipe, args.checkpoint)
    domain = registry.load_domain(recipe_model.domain, "evaluate", ValidateSpec)
    check_outputs(args.output, domain.formats)
    offered = capabilities(recipe_model.model.spec)
    has_prompts = "next_token_logits" in offered or "latent" not in offered
    if not has_prompts:
        check_latent_options(args)
    prompts = read_prompts(recipe_model, args.prompt, args.prompt_file, args.max_prompt_tokens) if has_prompts else []
    print_status(f"{load_model.display_path(ProjectPaths(Path.cwd()), recipe_model.checkpoint_dir)}, seed {args.seed}")
    if has_prompts and not args.output:
        pieces = stream_text(recipe_model, prompts, sampling, args.max_new_tokens, args.seed, is_text=not domain.formats)
    else:
        sequences = (
            continue_prompts(recipe_model, prompts, sampling, args.max_new_tokens, args.seed)
            if has_prompts
            else [sample_from_prior(recipe_model, domain, args, sampling)]
        )
        if args.output:
            write_outputs(recipe_model, sequences, args.output, domain.formats)
            return 0
        pieces = iter([f"{recipe_model.tokenizer.describe(ids)}\n" for ids in sequences])
    try:
        for piece in pieces:
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


def check_outputs(paths: Sequence[Path], formats: Formats) -> None:
    """Raise ConfigError if a file has a suffix that is no format of the domain."""
    for path in paths:
        if formats and path.suffix not in formats:
            raise ConfigError(f"--output: the suffix must be one of {', '.join(formats)}, got {path.as_posix()!r}")


def continue_prompts(
    recipe_model: RecipeModel, prompts: Sequence[TokenPrompt], sampling: SamplingConfig, max_new_tokens: int, seed: int
) -> list[list[int]]:
    """Return the ids of each prompt with its continuation."""
    eos, generator = recipe_model.tokenizer.special_tokens.get("eos"), make_generator(seed)
    prompt_ids = [prompt.ids for prompt in prompts]
    continuations = generate(recipe_logits(recipe_model), prompt_ids, sampling, max_new_tokens, eos, generator)
    return [[*ids, *continuation] for ids, continuation in zip(prompt_ids, continuations, strict=True)]


def check_latent_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that a model with latents cannot have."""
    if args.prompt or args.prompt_file:
        raise ConfigError("--prompt: must not be given for a model that generates from latents")
    if args.num_latents < 1:
        raise ConfigError(f"--num-latents: must be at least 1, got {args.num_latents}")


def sample_from_prior(
    recipe_model: RecipeModel, domain: ValidateSpec, args: argparse.Namespace, sampling: SamplingConfig
) -> list[int]:
    """Sample latents from the prior of a model and generate ids from them.

    Raises ConfigError if the domain has no models with latents.
    """
    loaded = recipe_model.model
    if loaded.spec.latent is None or domain.latent_stream is None:
        raise ConfigError(f"{recipe_model.domain}: the domain must say what tokens mean to a model with latents")
    generator = make_generator(args.seed)
    model, stream = loaded.model.eval(), domain.latent_stream(recipe_model.tokenizer)
    with torch.inference_mode():
        sample = loaded.spec.latent.prior(model, 1, args.num_latents, generator, None)
        return generate_from_latents(loaded.spec.latent, model, sample, stream, sampling, args.max_new_tokens, generator)[0]


def write_outputs(recipe_model: RecipeModel, sequences: Sequence[Sequence[int]], paths: Sequence[Path], formats: Formats) -> None:
    """Write the content of each sequence to every path.

    Several sequences get numbered files.
    """
    for number, ids in enumerate(sequences, start=1):
        content = recipe_model.tokenizer.decode(ids)
        for path in paths:
            numbered = path if len(sequences) == 1 else path.with_stem(f"{path.stem}-{number}")
            data = formats[path.suffix](content) if formats else content
            io.write_bytes(numbered, data)
            print_status(f"{numbered.as_posix()}: {len(data)} bytes")


def stream_text(
    recipe_model: RecipeModel,
    prompts: Sequence[TokenPrompt],
    sampling: SamplingConfig,
    max_new_tokens: int,
    seed: int,
    is_text: bool = True,
) -> Iterator[str]:
    """Yield the text to print.

    The text of a single prompt comes token by token; several prompts come in sequence when all are complete. Without `is_text`, tokens
    are printed by their names.
    """
    prompt_ids = [prompt.ids for prompt in prompts]
    eos = recipe_model.tokenizer.special_tokens.get("eos")
    arguments = (recipe_logits(recipe_model), prompt_ids, sampling, max_new_tokens, eos, make_generator(seed))
    decode = decode_stream if is_text else name_stream
    if len(prompt_ids) == 1:
        yield prompts[0].text
        yield from decode(recipe_model, (token_ids[0] for token_ids in generate_stream(*arguments)))
        yield "\n"
        return
    for number, (prompt, continuation) in enumerate(zip(prompts, generate(*arguments), strict=True), start=1):
        yield f"--- {number}\n{prompt.text}{''.join(decode(recipe_model, iter(continuation)))}\n"


def make_generator(seed: int) -> torch.Generator:
    """Return the random generator of a seed."""
    return torch.Generator().manual_seed(rng.derive_seed(seed, "generate"))


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


def name_stream(recipe_model: RecipeModel, ids: Iterator[int]) -> Iterator[str]:
    """Yield the name of each token after a space; special tokens have none."""
    for token_id in ids:
        if name := recipe_model.tokenizer.describe([token_id]):
            yield f" {name}"


def print_status(line: str) -> None:
    """Print a line to standard error; standard output is for generated text only."""
    print(line, file=sys.stderr, flush=True)
