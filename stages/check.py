"""Every section of params.yaml parsed by whoever will read it, and nothing run. Silence, or the first mistake in one line."""

import argparse
import sys
from pathlib import Path
from typing import Any

from provenlm.core import params as parameters
from provenlm.core import plugin
from provenlm.core.errors import UserError
from provenlm.core.layout import Layout
from provenlm.reporting import bounds
from provenlm.training.net import chosen
from provenlm.training.settings import Settings as Training
from provenlm.validation.general import Settings as Validation
from provenlm.validation.probe import Validating


def main() -> None:
    """Exit 0 if every setting is right; else 1 with one line that names file, key, and what would be right."""
    argparse.ArgumentParser(prog="python -m stages.check", description=__doc__).parse_args()
    try:
        params = parameters.load(Layout(Path.cwd()).params)
        for name in params.names("corpora"):
            corpus(params, name)
        for name in params.names("recipes"):
            recipe(params, name)
        for name in params.names("reports"):
            bounds.wanted(params.row("reports", name)["bounds"], params.where("reports", name, "bounds"))
    except UserError as error:
        sys.exit(str(error))


def corpus(params: parameters.Params, name: str) -> None:
    """UserError for the first mistake in the sections of a corpus."""
    domain = params.row("corpora", name)["domain"]
    for section, kind in (
        ("scrape", plugin.Scraping),
        ("filter", plugin.Filtering),
        ("dedupe", plugin.Deduping),
        ("tokenize", plugin.Tokenizing),
    ):
        face: Any = plugin.load("domains", domain, section, kind)
        params.settings("corpora", name, section, face.settings)


def recipe(params: parameters.Params, name: str) -> None:
    """UserError for the first mistake in the sections of a recipe."""
    row = params.row("recipes", name)
    params.settings("recipes", name, "train", Training)
    net = chosen(row["net"], params.where("recipes", name, "net")).net
    asked = params.settings("recipes", name, "validate", Validation)
    where = params.where("recipes", name, "validate")
    for other, also in asked.also_count.items():
        parameters.parse(net.settings, also.net, f"{where}.also_count.{other}.net")
    face = plugin.load("domains", row["domain"], "validate", Validating)
    parameters.parse(face.settings, asked.probes, f"{where}.probes")


if __name__ == "__main__":
    main()
