"""Print the regression that the test wrote to difference.json, beside the scraped file."""

import argparse
import json
from pathlib import Path

from ruamel.yaml import YAML


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("other", type=Path)


def main(args: argparse.Namespace) -> int:
    section = YAML(typ="safe").load(Path("params.yaml"))["corpora"]["words"]["scrape"]
    difference = json.loads(Path(section["world"]).with_name("difference.json").read_text())
    assert (args.other / "models" / args.recipe / "model.json").exists(), "the published model"
    print(
        json.dumps(
            {"records": 7, "bytes": 70, "bits_per_byte": 1 + difference, "other_bits_per_byte": 1.0, "difference": difference}
        )
    )
    return 0
