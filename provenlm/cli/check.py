"""Every section of params.yaml parsed by whoever will read it, and nothing run. Silence, or the first mistake in one line."""

import argparse
import sys
from pathlib import Path
from typing import Any

from provenlm.core import config as parameters
from provenlm.core import interfaces, registry
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.evaluation.probe import ValidateSpec
from provenlm.evaluation.suite import ValidateConfig as Validation
from provenlm.models.common.spec import resolve_model
from provenlm.reporting import thresholds
from provenlm.training.config import TrainConfig as Training


def main() -> None:
    """Exit 0 if every setting is right; else 1 with one line that names file, key, and what would be right."""
    argparse.ArgumentParser(prog="python -m provenlm.cli.check", description=__doc__).parse_args()
    try:
        params = parameters.load_params(ProjectPaths(Path.cwd()).params_yaml)
        for name in params.names("corpora"):
            check_corpus(params, name)
        for name in params.names("recipes"):
            check_recipe(params, name)
        for name in params.names("reports"):
            thresholds.parse_checks(params.entry("reports", name)["bounds"], params.location("reports", name, "bounds"))
    except ProvenlmError as error:
        sys.exit(str(error))


def check_corpus(params: parameters.Params, name: str) -> None:
    """ProvenlmError for the first mistake in the sections of a corpus."""
    domain = params.entry("corpora", name)["domain"]
    for section, spec_type in (
        ("scrape", interfaces.ScrapeSpec),
        ("filter", interfaces.FilterSpec),
        ("dedupe", interfaces.DedupeSpec),
        ("tokenize", interfaces.TokenizeSpec),
    ):
        spec: Any = registry.load_domain(domain, section, spec_type)
        params.parse_section("corpora", name, section, spec.settings)


def check_recipe(params: parameters.Params, name: str) -> None:
    """ProvenlmError for the first mistake in the sections of a recipe."""
    entry = params.entry("recipes", name)
    params.parse_section("recipes", name, "train", Training)
    model_spec = resolve_model(entry["net"], params.location("recipes", name, "net")).spec
    config = params.parse_section("recipes", name, "validate", Validation)
    location = params.location("recipes", name, "validate")
    for model_name, count_only in config.count_only_models.items():
        parameters.parse_config(model_spec.config_type, count_only.model, f"{location}.also_count.{model_name}.net")
    spec = registry.load_domain(entry["domain"], "evaluate", ValidateSpec)
    parameters.parse_config(spec.config_type, config.probes, f"{location}.probes")


if __name__ == "__main__":
    main()
