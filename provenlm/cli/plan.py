"""A depth or a range of parameters in; shapes of nets of that size, with what follows from it, and a `net` section to paste, out."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from provenlm.core import config, registry
from provenlm.core.errors import UserError
from provenlm.models.common.spec import Net
from provenlm.scaling import laws, model_sizing
from provenlm.scaling.laws import expected_loss, in_range
from provenlm.scaling.model_sizing import Kind, Size

RULES = " and ".join(f"{module.__name__.rpartition('.')[2]}.py" for module in (model_sizing, laws))


def main() -> None:
    """Print the table. Exit 1 with one line on a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m provenlm.cli.plan", description=__doc__)
    parser.add_argument("size", help="a depth, such as 8, or parameters in total, such as 180M..220M or 180e6..220e6")
    parser.add_argument("--net", choices=get_args(Kind), default="moe")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--pick", type=int, default=1, help="the row whose section is printed")
    asked = parser.parse_args()
    try:
        net = registry.load_model(asked.net, Net)
        sizes = sizes_of(asked.size, asked.net, asked.vocabulary, asked.context, net)
        if not 1 <= asked.pick <= len(sizes):
            raise UserError(f"--pick: {asked.pick}; there are rows 1 to {len(sizes)}")
    except (UserError, ValueError) as error:
        sys.exit(f"plan: {error}")
    print(table(sizes, net, asked.vocabulary))
    print(
        f"\nrow {asked.pick}; tokens, batches, rates and loss are estimates, by the rules named in {RULES}; * beyond what they fit:\n"
    )
    print(pasted(sizes[asked.pick - 1]))


def sizes_of(text: str, kind: Kind, vocabulary: int, context: int, net: Net) -> list[Size]:
    """UserError if `text` is neither a depth nor a range."""

    def count(section: Mapping[str, Any], vocabulary: int) -> Mapping[str, int]:
        return net.count(settings_of(net, section), vocabulary)

    low, dots, high = text.replace(" to ", "..").partition("..")
    try:
        ends = (number(low), number(high)) if dots else None
        depth = None if dots else int(text)
    except ValueError:
        raise UserError(f"{text!r} is neither a depth, such as 8, nor a range of parameters, such as 180e6..220e6") from None
    if ends:
        return model_sizing.within(*ends, kind, vocabulary, context, count)
    assert depth is not None
    return [model_sizing.at_depth(depth, kind, vocabulary, context, count)]


def number(text: str) -> float:
    """180M is 180e6; K, M and B are the letters. ValueError if it is none."""
    words = text.strip()
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(words[-1:].upper(), 1.0)
    return scale * float(words[:-1] if scale != 1.0 else words)


def settings_of(net: Net, section: Mapping[str, Any]) -> Any:
    return config.parse(net.settings, {key: value for key, value in section.items() if key != "kind"}, "plan")


def table(sizes: Sequence[Size], net: Net, vocabulary: int) -> str:
    """A row for each size; FLOPs are those of training, at the length of the context."""
    names = (
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
    rows: list[tuple[str, ...]] = [names]
    for number, size in enumerate(sizes, 1):
        shape = size.net
        flops = net.flops(settings_of(net, shape), vocabulary, shape["context"])
        rows.append(
            (
                str(number),
                *(str(shape[name]) for name in ("layers", "hidden")),
                f"{shape['heads']}/{shape['kv_heads']}",
                f"{shape['experts']}/{shape['experts_per_token']}" if "experts" in shape else "-",
                str(shape.get("expert_hidden", shape.get("inner"))),
                *(f"{number:,}" for number in (size.total, size.active)),
                f"{flops:.3g}",
                *(f"{number:.3g}" for number in (size.tokens, size.batch_tokens)),
                f"{size.steps:,}",
                f"≈{expected_loss(size.active, size.tokens):.2f}{'' if in_range(size.active, size.tokens) else '*'}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def pasted(size: Size) -> str:
    """The `net` section, and as comments what the `train` section may begin with."""
    lines = ["    net:", *(f"      {key}: {_yaml(value)}" for key, value in size.net.items())]
    lines += [f"    # train: batch · length = {size.batch_tokens}, steps: {size.steps}; rates at the peak:"]
    return "\n".join(lines + [f"    #   {role}: {rate}" for role, rate in size.rates.items()])


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
