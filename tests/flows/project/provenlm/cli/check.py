"""Check params.yaml of the tiny pipeline, whose sections the real parsers do not know."""

import argparse
from pathlib import Path

from ruamel.yaml import YAML

from provenlm.core.errors import ConfigError

KNOWN_KEYS = ("steps", "pause", "alone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="*")


def main(args: argparse.Namespace) -> int:
    train = YAML(typ="safe").load(Path("params.yaml"))["recipes"]["small"]["train"]
    unknown = [key for key in train if key not in KNOWN_KEYS]
    if unknown:
        raise ConfigError(f"params.yaml: recipes.small.train: unknown key {unknown[0]!r}; known: {', '.join(KNOWN_KEYS)}")
    steps = train["steps"]
    if not isinstance(steps, int):
        raise ConfigError(f"params.yaml: recipes.small.train.steps: must be a whole number, got {steps!r}")
    return 0
