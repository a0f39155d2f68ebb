"""A report in; its corpora scraped again, and where they changed, a new version of everything that rests on them, published if no worse.

It works in a checkout of its own (.worktrees/refresh-REPORT), which keeps a crawl's memory and an unfinished training from one time to
the next, so that an interrupted refresh goes on; the checkout that people work in stays untouched.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows import server  # noqa: F401  before Prefect, which reads its settings at import

# isort: split
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows import dvc_runner, process_groups, releases, status_page, tasks, worktrees
from flows.deployed_flows import REPORTS, Report, place, show
from provenlm.core import audit as audits
from provenlm.core import config as parameters
from provenlm.core import records
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout

NAMED = 10  # sources that a page names of each kind of change


@dataclass(frozen=True)
class Refresh:
    """The `refresh` section of a report: when (five fields of cron, UTC; null: when asked), and how much worse a new net may be.

    `worse` is in bits per byte of the records that the new and the published net both hold out; a net that is worse by more is not
    published.
    """

    cron: str | None
    worse: float

    def __post_init__(self) -> None:
        if self.worse < 0:
            raise ValueError(f"worse is {self.worse}; at least 0 would be right")
        if self.cron is not None and len(self.cron.split()) != 5:
            raise ValueError(f'cron is {self.cron!r}; five fields such as "0 3 * * *", or null, would be right')


@dataclass(frozen=True)
class Changes:
    """Sources of a corpus whose records came, became others, or went."""

    corpus: str
    added: Sequence[str]
    changed: Sequence[str]
    gone: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)

    def __str__(self) -> str:
        return f"{self.corpus}: {len(self.added)} records added, {len(self.changed)} changed, {len(self.gone)} gone"


@flow(name="refresh", flow_run_name=lambda: flow_run.parameters["report"])
def refresh(report: Report = REPORTS[0]) -> State[str]:
    """Scrape again; where records changed, rebuild what rests on them, compare with the published version, and publish if no worse.

    Args:
        report: what is refreshed, with everything that it rests on
    """
    home = Path.cwd()
    say = get_run_logger().info
    try:
        settings = wanted(report)
        with dvc_runner.alone([Layout(home).lock("refresh")], lambda: say("waiting for another refresh")):
            return _refresh(report, settings, home)
    except dvc_runner.StoppedError as error:
        return Cancelled(message=str(error), data=error)
    except (UserError, dvc_runner.StageError) as error:
        return Failed(message=str(error), data=error)


def settings_of(report: str) -> Refresh | None:
    """Whether and how params.yaml wants `report` refreshed."""
    params = parameters.load(Layout(Path.cwd()).params)
    section = params.row("reports", report)["refresh"]
    return None if section is None else parameters.parse(Refresh, section, params.where("reports", report, "refresh"))


def wanted(report: str) -> Refresh:
    """UserError if params.yaml does not want `report` refreshed."""
    if (settings := settings_of(report)) is None:
        raise UserError(f"params.yaml: reports.{report}.refresh: null; {{cron: null, worse: 0.02}} would let it be refreshed")
    return settings


def _refresh(report: str, settings: Refresh, home: Path) -> State[str]:
    say = get_run_logger().info
    version = releases.last(home, report)
    if version:
        push_tag(home, version)  # which a refresh that was killed may have left here
    tree = releases.opened(home, report, f"refresh-{report}")
    params = parameters.load(Layout(tree).params)
    corpora, recipes = params.row("reports", report)["corpora"], params.covered(report)
    where, steps = place(home, tree, 1, 1), dvc_runner.plan([f"report@{report}"], tree)
    before = {corpus: records.ids(Layout(tree).corpus(corpus, "scraped")) for corpus in corpora}
    figures = _figures(tree, [*corpora, *recipes])
    tasks.run([replace(step, force=True, needs=()) for step in steps if step.kind == "scrape"], where)
    changes = [compared(corpus, ids, records.ids(Layout(tree).corpus(corpus, "scraped"))) for corpus, ids in before.items()]
    for change in changes:
        say(str(change))
    if version and not any(changes):
        return Completed(name="Unchanged", message=f"no record changed; {version} stays", data=version)

    tasks.run([step for step in dvc_runner.plan([f"report@{report}"], tree) if step.kind != "scrape"], where)
    show(report, tree)
    text, good = _judged(report, recipes, settings, home, tree, version)
    text = "\n\n".join([text, *map(_described, changes), _moved(figures, _figures(tree, [*corpora, *recipes]))])
    create_markdown_artifact(text, tasks.key(f"refresh-{report}"), text.splitlines()[0])
    say(text.splitlines()[0])
    if not good:
        return Completed(name="Kept", message=text.splitlines()[0], data=version)
    push(tree, [step.stage for step in steps])
    made = releases.publish(tree, report, text)
    push_tag(home, made)
    status_page.publish()
    return Completed(name="Published", message=made, data=made)


def compared(corpus: str, before: Mapping[str, str], after: Mapping[str, str]) -> Changes:
    """Two scrapes, each as ids of records by their source."""
    common = before.keys() & after.keys()
    changed = [source for source in common if before[source] != after[source]]
    return Changes(corpus, sorted(after.keys() - common), sorted(changed), sorted(before.keys() - common))


def _judged(
    report: str, recipes: Sequence[str], settings: Refresh, home: Path, tree: Path, version: str | None
) -> tuple[str, bool]:
    """Whether the nets in `tree` may take the place of the published ones, and why, its first line a sentence."""
    if version is None:
        return f"{report}: the first version, so there is nothing to compare it with", True
    other = worktrees.opened(home, f"published-{report}", version)
    worktrees.dvc(other, "checkout", "--allow-missing", "--force", "--quiet")
    lines, good = [], True
    for recipe in recipes:
        found = _compare(recipe, tree, other)
        if not found["records"]:
            lines.append(f"{recipe}: no record was held out by both, so nothing says that it is no worse than {version}")
            good = False
            continue
        lines.append(
            f"{recipe}: {found['difference']:+.4f} bits/byte against {version} on the {found['records']} records that both hold out "
            f"({found['here']:.4f}, before {found['there']:.4f}); at most {settings.worse:+.4f} is wanted"
        )
        good = good and found["difference"] <= settings.worse
    return "\n".join([f"{report}: {'no worse than' if good else 'kept'} {version}: {lines[0]}", *lines[1:]]), good


def _compare(recipe: str, tree: Path, other: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "provenlm.cli.compare", recipe, str(other)]
    with process_groups.running(
        command, cwd=tree, environment=dvc_runner.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        out = process.communicate()[0].strip().splitlines()
    if process.returncode:
        raise dvc_runner.StageError(out[-1] if out else f"compare {recipe}: ended by signal {-process.returncode}")
    found: dict[str, Any] = json.loads(out[-1])
    return found


@task(name="push", retries=3, retry_delay_seconds=[2, 20, 60], cache_policy=NO_CACHE)  # a network may come back
def push(tree: Path, stages: Sequence[str]) -> None:
    """The data of `stages`, to DVC's remote, if there is one."""
    releases.push_data(tree, stages)


@task(name="push tag", retries=3, retry_delay_seconds=[2, 20, 60], cache_policy=NO_CACHE)
def push_tag(home: Path, version: str) -> None:
    """To the git remote, if there is one."""
    releases.push_tag(home, version)


def _figures(tree: Path, subjects: Sequence[str]) -> dict[str, audits.Value]:
    """What the audits of `subjects` say now, clocks left out."""
    layout = Layout(tree)
    pairs = [(subject, kind) for subject in subjects for kind in dvc_runner.KINDS]
    return {
        f"{subject}/{kind}.{name}": figure.value
        for subject, kind in pairs
        if layout.audit(subject, kind).exists()
        for name, figure in audits.read(layout.audit(subject, kind)).figures.items()
        if figure.kind != "measured" or figure.unit not in ("s", "bytes", "tokens/s")
    }


def _described(change: Changes) -> str:
    named = [
        f"- {word}: {', '.join(sources[:NAMED])}{f' and {len(sources) - NAMED} more' if len(sources) > NAMED else ''}"
        for word, sources in (("added", change.added), ("changed", change.changed), ("gone", change.gone))
        if sources
    ]
    return "\n".join([f"**{change}**", "", *named])


def _moved(before: Mapping[str, audits.Value], after: Mapping[str, audits.Value]) -> str:
    rows = [f"| {name} | {before.get(name, '')} | {value} |" for name, value in after.items() if before.get(name) != value]
    return "\n".join(["| figure | before | after |", "| --- | ---: | ---: |", *rows])
