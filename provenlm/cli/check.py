"""Parse every section of params.yaml without running a stage; print nothing, or the first error in one line."""

import argparse
from pathlib import Path
from typing import Any

from provenlm.core import interfaces, registry
from provenlm.core.config import Params, load_params, parse_config
from provenlm.core.paths import ProjectPaths
from provenlm.evaluation.probe import ValidateSpec
from provenlm.evaluation.suite import ValidateConfig
from provenlm.models.common.spec import resolve_model
from provenlm.reporting import thresholds
from provenlm.training.config import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "reports", nargs="*", metavar="REPORT", help="check only the sections that these reports use (default: all sections)"
    )


def main(args: argparse.Namespace) -> int:
    """Parse params.yaml, or what the named reports use of it, and return 0. Raises ConfigError for the first error."""
    params = load_params(ProjectPaths(Path.cwd()).params_yaml)
    reports, corpora, recipes = params.names("reports"), params.names("corpora"), params.names("recipes")
    if args.reports:
        reports = args.reports
        corpora = list(dict.fromkeys(corpus for name in reports for corpus in params.entry("reports", name)["corpora"]))
        recipes = list(dict.fromkeys(recipe for name in reports for recipe in params.recipes_of(name)))
    for name in corpora:
        check_corpus(params, name)
    for name in recipes:
        check_recipe(params, name)
    for name in reports:
        thresholds.parse_checks(params.entry("reports", name)["checks"], params.location("reports", name, "checks"))
    return 0


def check_corpus(params: Params, name: str) -> None:
    """Parse every section of a corpus. Raises ConfigError for the first error."""
    domain = params.entry("corpora", name)["domain"]
    for section, spec_type in (
        ("scrape", interfaces.ScrapeSpec),
        ("filter", interfaces.FilterSpec),
        ("dedupe", interfaces.DedupeSpec),
        ("tokenize", interfaces.TokenizeSpec),
    ):
        spec: Any = registry.load_domain(domain, section, spec_type)
        params.parse_section("corpora", name, section, spec.config_type)


def check_recipe(params: Params, name: str) -> None:
    """Parse every section of a recipe. Raises ConfigError for the first error."""
    entry = params.entry("recipes", name)
    params.parse_section("recipes", name, "train", TrainConfig)
    model_spec = resolve_model(entry["model"], params.location("recipes", name, "model")).spec
    config = params.parse_section("recipes", name, "validate", ValidateConfig)
    location = params.location("recipes", name, "validate")
    for model_name, count_only in config.count_only_models.items():
        parse_config(model_spec.config_type, count_only.model, f"{location}.count_only_models.{model_name}.model")
    spec = registry.load_domain(entry["domain"], "evaluate", ValidateSpec)
    parse_config(spec.config_type, config.probes, f"{location}.probes")
