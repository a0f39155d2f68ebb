"""Refresh the corpora of a report and publish it if the model did not regress.

A refresh scrapes the corpora again and rebuilds what changed.

A refresh works in its own git worktree (.worktrees/refresh-REPORT), which keeps crawl state and unfinished trainings between runs, so
that an interrupted refresh resumes. The checkout of the user is not changed.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows import server  # noqa: F401  imported before Prefect, which reads its settings at import

# isort: split
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows import dvc_runner, process_groups, releases, status_page, tasks, worktrees
from flows.build import REPORTS, ReportName, publish_report, run_location
from provenlm.core import records
from provenlm.core.audit import MetricValue, read_audit
from provenlm.core.config import load_params, parse_config
from provenlm.core.errors import ConfigError, ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.report_config import ScheduleConfig
from provenlm.core.stages import STAGES

MAX_LISTED_SOURCES = 10  # per kind of change, on the page of a refresh


@dataclass(frozen=True)
class CorpusDiff:
    """Hold the sources of a corpus whose records were added, changed or removed."""

    corpus: str
    added: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def __str__(self) -> str:
        return f"{self.corpus}: {len(self.added)} records added, {len(self.changed)} changed, {len(self.removed)} removed"


@flow(name="refresh", flow_run_name=lambda: flow_run.parameters["report"])
def refresh(report: ReportName = REPORTS[0]) -> State[str]:
    """Scrape again.

    If records changed, rebuild, compare with the published version, and publish unless the model regressed.

    Args:
        report: report to refresh, with all stages that it depends on
    """
    home = Path.cwd()
    log_info = get_run_logger().info
    try:
        refresh_config = require_refresh_config(report)
        with dvc_runner.exclusive_lock([ProjectPaths(home).file_lock("refresh")], lambda: log_info("waiting for another refresh")):
            return _run_refresh(report, refresh_config, home)
    except dvc_runner.StageCancelledError as error:
        return Cancelled(message=str(error), data=error)
    except ProvenlmError as error:
        return Failed(message=str(error), data=error)


def load_refresh_config(report: str) -> ScheduleConfig | None:
    """Read the `schedule` section of a report; None if it is null."""
    params = load_params(ProjectPaths(Path.cwd()).params_yaml)
    section = params.entry("reports", report).get("schedule")
    return None if section is None else parse_config(ScheduleConfig, section, params.location("reports", report, "schedule"))


def require_refresh_config(report: str) -> ScheduleConfig:
    """Read the `schedule` section of a report; raise ConfigError if it is null."""
    if (refresh_config := load_refresh_config(report)) is None:
        raise ConfigError(
            f"params.yaml: reports.{report}.schedule must be set, such as {{cron: null, max_regression_bits_per_byte: 0.02}}, got null"
        )
    return refresh_config


def _run_refresh(report: str, refresh_config: ScheduleConfig, home: Path) -> State[str]:
    log_info = get_run_logger().info
    version = releases.latest_release(home, report)
    if version:
        push_tag_task(home, version)  # a refresh that was killed may have tagged without pushing
    tree = releases.open_release_worktree(home, report, f"refresh-{report}")
    params = load_params(ProjectPaths(tree).params_yaml)
    recipes = params.recipes_of(report)
    corpora = list(dict.fromkeys(str(params.entry("recipes", recipe)["corpus"]) for recipe in params.built_recipes(report)))
    worktrees.check_params(tree, [report])
    location, planned_stages = run_location(home, tree, 1, 1), dvc_runner.plan_stages([f"report@{report}"], tree)
    ids_before = {corpus: records.read_ids_by_source(ProjectPaths(tree).corpus_dir(corpus, "scraped")) for corpus in corpora}
    metrics_before = _read_metrics(tree, [*corpora, *recipes])
    tasks.run_stages([replace(stage, force=True, dependencies=()) for stage in planned_stages if stage.name == "scrape"], location)
    diffs = [
        diff_records(corpus, ids, records.read_ids_by_source(ProjectPaths(tree).corpus_dir(corpus, "scraped")))
        for corpus, ids in ids_before.items()
    ]
    for diff in diffs:
        log_info(str(diff))
    if version and not any(diffs):
        return Completed(name="Unchanged", message=f"no record changed; {version} is still current", data=version)

    tasks.run_stages([stage for stage in dvc_runner.plan_stages([f"report@{report}"], tree) if stage.name != "scrape"], location)
    publish_report(report, tree)
    summary, accepted = _compare_with_published(report, recipes, refresh_config, home, tree, version)
    summary = "\n\n".join(
        [summary, *map(_describe_diff, diffs), _metric_changes_table(metrics_before, _read_metrics(tree, [*corpora, *recipes]))]
    )
    create_markdown_artifact(summary, tasks.artifact_key(f"refresh-{report}"), summary.splitlines()[0])
    log_info(summary.splitlines()[0])
    if not accepted:
        return Completed(name="Not published", message=summary.splitlines()[0], data=version)
    push_data_task(tree, [stage.address for stage in planned_stages])
    new_version = releases.publish_release(tree, report, summary)
    push_tag_task(home, new_version)
    status_page.publish_status()
    return Completed(name="Published", message=new_version, data=new_version)


def diff_records(corpus: str, before: Mapping[str, str], after: Mapping[str, str]) -> CorpusDiff:
    """Compare two scrapes of a corpus, each given as record ids by source."""
    common = before.keys() & after.keys()
    changed = [source for source in common if before[source] != after[source]]
    return CorpusDiff(corpus, sorted(after.keys() - common), sorted(changed), sorted(before.keys() - common))


def _compare_with_published(
    report: str, recipes: Sequence[str], refresh_config: ScheduleConfig, home: Path, tree: Path, version: str | None
) -> tuple[str, bool]:
    """Compare the models in `tree` with the published ones.

    Return a summary and whether to publish.
    """
    if version is None:
        return f"{report}: first version, nothing to compare with", True
    published_tree = worktrees.ensure_worktree(home, f"published-{report}", version)
    worktrees.run_dvc(published_tree, "checkout", "--allow-missing", "--force", "--quiet")
    lines, accepted = [], True
    for recipe in recipes:
        result = _run_compare(recipe, tree, published_tree)
        if not result["records"]:
            lines.append(f"{recipe}: no common validation record, so a regression against {version} cannot be excluded")
            accepted = False
            continue
        lines.append(
            f"{recipe}: {result['difference']:+.4f} bits/byte against {version} on {result['records']} common validation records "
            f"({result['bits_per_byte']:.4f}, published {result['other_bits_per_byte']:.4f}); allowed: at most {refresh_config.max_regression_bits_per_byte:+.4f}"
        )
        accepted = accepted and result["difference"] <= refresh_config.max_regression_bits_per_byte
    return "\n".join(
        [
            f"{report}: {'no regression against' if accepted else 'not published, regression against'} {version}: {lines[0]}",
            *lines[1:],
        ]
    ), accepted


def _run_compare(recipe: str, tree: Path, published_tree: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "provenlm.cli", "compare", recipe, str(published_tree)]
    with process_groups.managed_process(
        command, cwd=tree, environment=dvc_runner.dvc_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        output_lines = process.communicate()[0].strip().splitlines()
    if process.returncode:
        raise dvc_runner.StageError(
            output_lines[-1] if output_lines else f"compare {recipe}: killed by signal {-process.returncode}"
        )
    result: dict[str, Any] = json.loads(output_lines[-1])
    return result


@task(name="push", retries=3, retry_delay_seconds=[2, 20, 60], cache_policy=NO_CACHE)  # network failures may be temporary
def push_data_task(tree: Path, stages: Sequence[str]) -> None:
    """Push the data of the stages to the DVC remote, if there is one."""
    releases.push_data(tree, stages)


@task(name="push tag", retries=3, retry_delay_seconds=[2, 20, 60], cache_policy=NO_CACHE)
def push_tag_task(home: Path, version: str) -> None:
    """Push the tag to the git remote, if there is one."""
    releases.push_tag(home, version)


def _read_metrics(tree: Path, subjects: Sequence[str]) -> dict[str, MetricValue]:
    """Read the metrics of all audits of the subjects, except measured costs.

    Costs are times, sizes and speeds.
    """
    paths = ProjectPaths(tree)
    pairs = [(subject, stage_name) for subject in subjects for stage_name in STAGES]
    return {
        f"{subject}/{stage_name}.{name}": metric.value
        for subject, stage_name in pairs
        if paths.audit_json(subject, stage_name).exists()
        for name, metric in read_audit(paths.audit_json(subject, stage_name)).metrics.items()
        if metric.kind != "measured" or metric.unit not in ("s", "bytes", "tokens/s")
    }


def _describe_diff(diff: CorpusDiff) -> str:
    bullets = [
        f"- {label}: {', '.join(sources[:MAX_LISTED_SOURCES])}{f' and {len(sources) - MAX_LISTED_SOURCES} more' if len(sources) > MAX_LISTED_SOURCES else ''}"
        for label, sources in (("added", diff.added), ("changed", diff.changed), ("removed", diff.removed))
        if sources
    ]
    return "\n".join([f"**{diff}**", "", *bullets])


def _metric_changes_table(before: Mapping[str, MetricValue], after: Mapping[str, MetricValue]) -> str:
    rows = [f"| {name} | {before.get(name, '')} | {value} |" for name, value in after.items() if before.get(name) != value]
    return "\n".join(["| metric | before | after |", "| --- | ---: | ---: |", *rows])
