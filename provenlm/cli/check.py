"""Every section of params.yaml parsed by whoever will read it, and nothing run. Silence, or the first mistake in one line."""

import argparse
import sys
from pathlib import Path
from typing import Any

from provenlm.core import config as parameters
from provenlm.core import interfaces, registry
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.evaluation.probe import Validating
from provenlm.evaluation.suite import Settings as Validation
from provenlm.models.common.spec import chosen
from provenlm.reporting import thresholds
from provenlm.training.config import Settings as Training


def main() -> None:
    """Exit 0 if every setting is right; else 1 with one line that names file, key, and what would be right."""
    argparse.ArgumentParser(prog="python -m provenlm.cli.check", description=__doc__).parse_args()
    try:
        params = parameters.load(Layout(Path.cwd()).params)
        for name in params.names("corpora"):
            corpus(params, name)
        for name in params.names("recipes"):
            recipe(params, name)
        for name in params.names("reports"):
            thresholds.wanted(params.row("reports", name)["bounds"], params.where("reports", name, "bounds"))
    except UserError as error:
        sys.exit(str(error))


def corpus(params: parameters.Params, name: str) -> None:
    """UserError for the first mistake in the sections of a corpus."""
    domain = params.row("corpora", name)["domain"]
    for section, kind in (
        ("scrape", interfaces.Scraping),
        ("filter", interfaces.Filtering),
        ("dedupe", interfaces.Deduping),
        ("tokenize", interfaces.Tokenizing),
    ):
        face: Any = registry.load_domain(domain, section, kind)
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
    face = registry.load_domain(row["domain"], "evaluate", Validating)
    parameters.parse(face.settings, asked.probes, f"{where}.probes")


if __name__ == "__main__":
    main()
