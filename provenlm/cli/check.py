"""Parse every section of params.yaml without running a stage.

Print nothing, or the first error in one line.
"""

import argparse
from pathlib import Path
from typing import Any

from provenlm.core import interfaces, registry
from provenlm.core.config import Params, load_params, parse_config
from provenlm.core.errors import ConfigError
from provenlm.core.paths import ProjectPaths
from provenlm.core.report_config import ReportConfig
from provenlm.core.stages import CORPUS_STAGES, RECIPE_STAGES
from provenlm.evaluation.probe import ValidateSpec
from provenlm.evaluation.suite import ValidateConfig
from provenlm.models.common.spec import ResolvedModel, resolve_model
from provenlm.reporting import thresholds
from provenlm.scraping.names import check_names
from provenlm.training.build_model import find_base_model
from provenlm.training.config import TrainConfig
from provenlm.training.device import resolve_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "reports", nargs="*", metavar="REPORT", help="check only the sections that these reports use (default: all sections)"
    )


def main(args: argparse.Namespace) -> int:
    """Parse params.yaml, or what the named reports are built from, and return 0.

    Raises ConfigError for the first error.
    """
    paths = ProjectPaths(Path.cwd())
    params = load_params(paths.params_yaml)
    check_names(params)
    reports, corpora, recipes = params.names("reports"), params.names("corpora"), params.names("recipes")
    if args.reports:
        reports = args.reports
        recipes = list(dict.fromkeys(recipe for name in reports for recipe in params.built_recipes(name)))
        corpora = list(dict.fromkeys(str(params.entry("recipes", recipe)["corpus"]) for recipe in recipes))
    for name in corpora:
        check_corpus(params, name)
    for name in recipes:
        check_recipe(params, name, paths)
    for name in reports:
        check_report(params, name)
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


def check_recipe(params: Params, name: str, paths: ProjectPaths) -> None:
    """Parse every section of a recipe and check that they agree.

    Raises ConfigError for the first error.
    """
    entry = params.entry("recipes", name)
    train_config = params.parse_section("recipes", name, "train", TrainConfig)
    model = resolve_model(entry["model"], params.location("recipes", name, "model"))
    model_spec = model.spec
    check_training(train_config, model, params.location("recipes", name, "train"))
    domain = registry.load_domain(entry["domain"], "tokenize", interfaces.TokenizeSpec)
    parse_config(domain.batch_config_type, train_config.batches, f"{params.location('recipes', name, 'train')}.batches")
    find_base_model(params, name, model, paths)
    config = params.parse_section("recipes", name, "validate", ValidateConfig)
    location = params.location("recipes", name, "validate")
    for model_name, count_only in config.count_only_models.items():
        parse_config(model_spec.config_type, count_only.model, f"{location}.count_only_models.{model_name}.model")
    spec = registry.load_domain(entry["domain"], "evaluate", ValidateSpec)
    parse_config(spec.config_type, config.probes, f"{location}.probes")


def check_training(config: TrainConfig, model: ResolvedModel, location: str) -> None:
    """Check a parsed `train` section against the model and this machine.

    Raises ConfigError.
    """
    max_seq_len = model.spec.max_seq_len(model.model_config)
    if config.seq_len > max_seq_len:
        raise ConfigError(f"{location}.seq_len: must be at most the model's {max_seq_len} positions, got {config.seq_len}")
    try:
        resolve_device(config.device)
    except ConfigError as error:
        raise ConfigError(f"{location}.{str(error).removeprefix('train.')}") from None


def check_report(params: Params, name: str) -> None:
    """Parse a report with its checks and schedule.

    Raises ConfigError, also for a check on a subject that it does not cover.
    """
    config = parse_config(ReportConfig, params.entry("reports", name), f"{params.file}: reports.{name}")
    location = params.location("reports", name, "checks")
    stages_of = {**dict.fromkeys(config.corpora, CORPUS_STAGES), **dict.fromkeys(params.recipes_of(name), RECIPE_STAGES)}
    for check in thresholds.parse_checks(config.checks, location).custom:
        for metric_id in (check.metric_id, *check.threshold.dependencies()):
            subject, _, metric = metric_id.rpartition("/")
            if metric.partition(".")[0] not in stages_of.get(subject, ()):
                covered = ", ".join(f"{subject}/{stage}" for subject, stages in stages_of.items() for stage in stages)
                raise ConfigError(f"{location}.{check.metric_id}: must be a metric of one of {covered}, got {metric_id}")
