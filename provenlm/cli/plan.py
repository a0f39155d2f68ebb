"""A depth or a range of parameters in; shapes of nets of that size, with what follows from it, and a `net` section to paste, out."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from provenlm.core import config, registry
from provenlm.core.errors import ProvenlmError
from provenlm.models.common.spec import ModelSpec
from provenlm.scaling import laws, model_sizing
from provenlm.scaling.laws import scaling_law_loss, within_fit_range
from provenlm.scaling.model_sizing import ModelArch, ModelSizePlan

RULE_FILES = " and ".join(f"{module.__name__.rpartition('.')[2]}.py" for module in (model_sizing, laws))


def main() -> None:
    """Print the table. Exit 1 with one line on a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m provenlm.cli.plan", description=__doc__)
    parser.add_argument("size", help="a depth, such as 8, or parameters in total, such as 180M..220M or 180e6..220e6")
    parser.add_argument("--net", choices=get_args(ModelArch), default="moe")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--pick", type=int, default=1, help="the row whose section is printed")
    args = parser.parse_args()
    try:
        spec = registry.load_model(args.net, ModelSpec)
        sizes = parse_sizes(args.size, args.net, args.vocabulary, args.context, spec)
        if not 1 <= args.pick <= len(sizes):
            raise ProvenlmError(f"--pick: {args.pick}; there are rows 1 to {len(sizes)}")
    except (ProvenlmError, ValueError) as error:
        sys.exit(f"plan: {error}")
    print(format_table(sizes, spec, args.vocabulary))
    print(
        f"\nrow {args.pick}; tokens, batches, rates and loss are estimates, by the rules named in {RULE_FILES}; * beyond what they fit:\n"
    )
    print(format_section(sizes[args.pick - 1]))


def parse_sizes(text: str, arch: ModelArch, vocab_size: int, context: int, spec: ModelSpec) -> list[ModelSizePlan]:
    """ProvenlmError if `text` is neither a depth nor a range."""

    def count(section: Mapping[str, Any], vocab_size: int) -> Mapping[str, int]:
        return spec.num_params(parse_model_config(spec, section), vocab_size)

    low, dots, high = text.replace(" to ", "..").partition("..")
    try:
        ends = (parse_count(low), parse_count(high)) if dots else None
        depth = None if dots else int(text)
    except ValueError:
        raise ProvenlmError(f"{text!r} is neither a depth, such as 8, nor a range of parameters, such as 180e6..220e6") from None
    if ends:
        return model_sizing.sizes_in_range(*ends, arch, vocab_size, context, count)
    assert depth is not None
    return [model_sizing.size_for_depth(depth, arch, vocab_size, context, count)]


def parse_count(text: str) -> float:
    """180M is 180e6; K, M and B are the letters. ValueError if it is none."""
    digits = text.strip()
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(digits[-1:].upper(), 1.0)
    return scale * float(digits[:-1] if scale != 1.0 else digits)


def parse_model_config(spec: ModelSpec, section: Mapping[str, Any]) -> Any:
    return config.parse_config(spec.config_type, {key: value for key, value in section.items() if key != "kind"}, "plan")


def format_table(sizes: Sequence[ModelSizePlan], spec: ModelSpec, vocab_size: int) -> str:
    """A row for each size; FLOPs are those of training, at the length of the context."""
    header = (
        "row",
        "layers",
        "hidden",
        "heads",
        "experts",
        "inner",
        "total",
        "active",
        "FLOPs/token",
        "tokens",
        "a step",
        "steps",
        "loss",
    )
    rows: list[tuple[str, ...]] = [header]
    for number, size in enumerate(sizes, 1):
        section = size.model
        flops = spec.flops_per_token(parse_model_config(spec, section), vocab_size, section["context"])
        rows.append(
            (
                str(number),
                *(str(section[name]) for name in ("layers", "hidden")),
                f"{section['heads']}/{section['kv_heads']}",
                f"{section['experts']}/{section['experts_per_token']}" if "experts" in section else "-",
                str(section.get("expert_hidden", section.get("inner"))),
                *(f"{number:,}" for number in (size.total_params, size.active_params)),
                f"{flops:.3g}",
                *(f"{number:.3g}" for number in (size.train_tokens, size.batch_tokens)),
                f"{size.max_steps:,}",
                f"≈{scaling_law_loss(size.active_params, size.train_tokens):.2f}{'' if within_fit_range(size.active_params, size.train_tokens) else '*'}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def format_section(size: ModelSizePlan) -> str:
    """The `net` section, and as comments what the `train` section may begin with."""
    lines = ["    net:", *(f"      {key}: {_yaml(value)}" for key, value in size.model.items())]
    lines += [f"    # train: batch · length = {size.batch_tokens}, steps: {size.max_steps}; rates at the peak:"]
    return "\n".join(lines + [f"    #   {role}: {rate}" for role, rate in size.peak_lrs.items()])


def _yaml(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:.1e}"
        if isinstance(value, float) and value < 1e-3
        else str(value)
    )


if __name__ == "__main__":
    main()
