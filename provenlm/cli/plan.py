"""Suggest model shapes for a depth, a parameter budget, or a corpus and minutes.

Print a table and a `model` section to paste; for a corpus and minutes a whole recipe, by measured speed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provenlm.core import registry
from provenlm.core.config import load_params, parse_config
from provenlm.core.errors import ConfigError
from provenlm.core.paths import ProjectPaths
from provenlm.models.common.spec import ModelSpec
from provenlm.scaling import laws, model_sizing
from provenlm.scaling.laws import scaling_law_loss, within_fit_range
from provenlm.scaling.model_sizing import ModelSizePlan

RULE_FILES = " and ".join(f"{module.__name__.rpartition('.')[2]}.py" for module in (model_sizing, laws))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "size",
        nargs="?",
        help="number of layers, such as 8, or a range of total parameters, such as 180M..220M or 180e6..220e6",
    )
    parser.add_argument("--corpus", metavar="NAME", help="instead of a size: a tokenized corpus; speed is measured on this machine")
    parser.add_argument("--minutes", type=float, default=3.0, metavar="M", help="with --corpus: training time (default: 3)")
    parser.add_argument("--arch", default="moe", metavar="NAME", help="a model with size rules, such as moe or gpt (default: moe)")
    parser.add_argument("--vocab-size", type=int, default=32_000, metavar="N", help="number of token ids (default: 32000)")
    parser.add_argument(
        "--max-seq-len", type=int, default=1024, metavar="N", help="maximum sequence length in tokens (default: 1024)"
    )
    parser.add_argument("--pick", type=int, default=1, metavar="ROW", help="row whose section is printed (default: 1)")


def main(args: argparse.Namespace) -> int:
    """Print the table and one section, or the recipe for a corpus, and return 0."""
    if (args.size is None) == (args.corpus is None):
        raise ConfigError("size: must be a depth or a range of parameters; or --corpus NAME, without a size")
    if args.corpus is not None:
        return plan_corpus(args.corpus, args.minutes)
    spec = registry.load_model(args.arch, ModelSpec)
    try:
        sizes = parse_sizes(args.size, args.arch, args.vocab_size, args.max_seq_len, spec)
    except ValueError as error:
        raise ConfigError(f"size: {error}") from None
    if not 1 <= args.pick <= len(sizes):
        raise ConfigError(f"--pick: must be 1 to {len(sizes)}, got {args.pick}")
    print(format_table(sizes, spec, args.vocab_size))
    print(
        f"\nrow {args.pick}; tokens, batch size, learning rates and loss are estimates (rules: {RULE_FILES}); -: outside the fitted range\n"
    )
    print(format_section(sizes[args.pick - 1]))
    return 0


def plan_corpus(name: str, minutes: float) -> int:
    """Print a recipe that trains on a tokenized corpus for `minutes`.

    Prints the reasons, too, and returns 0.
    """
    from provenlm.cli import new
    from provenlm.cli.starter import entries, sample

    paths = ProjectPaths(Path.cwd())
    domain = str(load_params(paths.params_yaml).entry("corpora", name)["domain"])
    new.check_minutes(minutes)
    corpus = sample.tokenized_corpus(domain, paths.corpus_dir(name, "tokens"), name)
    choice = new.choose_recipe(domain, corpus, minutes)
    print("\n".join(choice.reasons) + "\n\nrecipes:")
    print(entries.format_entry(f"{name}_model", choice.recipe(name, domain), ""))
    return 0


def parse_sizes(text: str, arch: str, vocab_size: int, max_seq_len: int, spec: ModelSpec) -> list[ModelSizePlan]:
    """Return the model sizes for a depth, or for a range of shapes.

    Raises ConfigError for any other text.
    """

    if spec.size_rules is None:
        raise ConfigError(f"--arch: must be a model with size rules, got {arch}")

    def count(section: Mapping[str, Any], vocab_size: int) -> Mapping[str, int]:
        return spec.num_params(parse_model_config(spec, section), vocab_size)

    low, dots, high = text.replace(" to ", "..").partition("..")
    try:
        ends = (parse_count(low), parse_count(high)) if dots else None
        depth = None if dots else int(text)
    except ValueError:
        raise ConfigError(f"size: must be a depth such as 8 or a range such as 180e6..220e6, got {text!r}") from None
    if ends:
        return model_sizing.sizes_in_range(*ends, arch, spec.size_rules, vocab_size, max_seq_len, count)
    assert depth is not None
    return [model_sizing.size_for_depth(depth, arch, spec.size_rules, vocab_size, max_seq_len, count)]


def parse_count(text: str) -> float:
    """Parse a number with an optional suffix K, M or B: 180M is 180e6.

    Raises ValueError.
    """
    digits = text.strip()
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(digits[-1:].upper(), 1.0)
    return scale * float(digits[:-1] if scale != 1.0 else digits)


def parse_model_config(spec: ModelSpec, section: Mapping[str, Any]) -> Any:
    """Parse a `model` section without its `arch`."""
    return parse_config(spec.config_type, {key: value for key, value in section.items() if key != "arch"}, "plan")


def format_table(sizes: Sequence[ModelSizePlan], spec: ModelSpec, vocab_size: int) -> str:
    """Format a row for each size.

    FLOPs are those of training at the maximum sequence length.
    """
    header = (
        "row",
        "layers",
        "hidden",
        "heads",
        "experts",
        "ffn",
        "total",
        "active",
        "FLOPs/token",
        "tokens",
        "tokens/step",
        "steps",
        "loss",
    )
    rows: list[tuple[str, ...]] = [header]
    for number, size in enumerate(sizes, 1):
        section = size.model
        flops = spec.flops_per_token(parse_model_config(spec, section), vocab_size, section["max_position_embeddings"])
        rows.append(
            (
                str(number),
                *(str(section[name]) for name in ("num_hidden_layers", "hidden_size")),
                f"{section['num_attention_heads']}/{section['num_key_value_heads']}",
                f"{section['num_experts']}/{section['num_experts_per_tok']}" if "num_experts" in section else "-",
                str(section["intermediate_size"]),
                *(f"{number:,}" for number in (size.total_params, size.active_params)),
                f"{flops:.3g}",
                *(f"{number:.3g}" for number in (size.train_tokens, size.batch_tokens)),
                f"{size.max_steps:,}",
                f"≈{scaling_law_loss(size.active_params, size.train_tokens):.2f}"
                if within_fit_range(size.active_params, size.train_tokens)
                else "-",  # outside the fitted range the law can say more than ln(vocab_size), the loss of guessing
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def format_section(size: ModelSizePlan) -> str:
    """Format the `model` section, and suggestions for the `train` section as comments."""
    lines = ["    model:", *(f"      {key}: {_yaml(value)}" for key, value in size.model.items())]
    lines += [f"    # train: global_batch_size · seq_len = {size.batch_tokens}, max_steps: {size.max_steps}; peak learning rates:"]
    return "\n".join(lines + [f"    #   {role}: {rate}" for role, rate in size.peak_lrs.items()])


def _yaml(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:.1e}"
        if isinstance(value, float) and value < 1e-3
        else str(value)
    )
