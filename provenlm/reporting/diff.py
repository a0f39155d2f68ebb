"""Show the metrics and checks that changed since the previous report version."""

from collections.abc import Iterator
from typing import cast

from provenlm.core.audit import Metric
from provenlm.reporting.citations import cite
from provenlm.reporting.evidence import AuditFile, AuditSet
from provenlm.reporting.markdown import Markdown, bold, bullet_list, code, escape, heading, link, table
from provenlm.reporting.number_format import exact_repr, format_change, format_value
from provenlm.reporting.previous_version import ReportSnapshot, SnapshotPair

TITLE = Markdown("Changes since the previous version")
COLUMNS = [Markdown(word) for word in ("Metric", "Previous", "Current", "Change", "Status")]
RIGHT_ALIGNED = [False, True, True, True, False]


def diff_section(snapshots: SnapshotPair, audits: AuditSet, snapshot_path: str) -> Iterator[Markdown]:
    """Render the section; `snapshot_path` is the link to the file with both snapshots."""
    yield heading(2, TITLE)
    current, previous = snapshots.current, snapshots.previous
    if previous is None:
        yield Markdown("There is no previous version.")
        return
    started_at = link(escape(previous.started_at or previous.status), snapshot_path, "started_at")
    yield Markdown(f"Compared with the version of {started_at}; its verdict was {bold(escape(previous.status))}.")
    rows = [
        _row(file, name, metric, snapshots, snapshot_path) for file, name, metric in _changed_metrics(previous, current, audits)
    ]
    yield table(COLUMNS, rows, RIGHT_ALIGNED) if rows else Markdown("No metric and no check changed.")
    yield from _name_list("New", [name for name in current.metrics if name not in previous.metrics])
    yield from _name_list("Removed", [name for name in previous.metrics if name not in current.metrics])


def _changed_metrics(previous: ReportSnapshot, current: ReportSnapshot, audits: AuditSet) -> list[tuple[AuditFile, str, Metric]]:
    """Return metrics whose value or check status changed, checked metrics first."""
    changed = []
    for file in audits.files:
        for name, metric in file.audit.metrics.items() if file.audit else ():
            key = f"{file.name}.{name}"
            if key in previous.metrics and (previous.metrics[key], previous.checks.get(key)) != (
                metric.value,
                current.checks.get(key),
            ):
                changed.append((file, name, metric))
    return sorted(changed, key=lambda item: f"{item[0].name}.{item[1]}" not in current.checks)


def _row(file: AuditFile, name: str, metric: Metric, snapshots: SnapshotPair, snapshot_path: str) -> list[Markdown]:
    key, previous = f"{file.name}.{name}", cast(ReportSnapshot, snapshots.previous)
    old_value, change = previous.metrics[key], format_change(previous.metrics[key], metric.value, metric.unit)
    verdicts = [bold(escape(status)) for status in (previous.checks.get(key), snapshots.current.checks.get(key)) if status]
    return [
        Markdown(f"{code(file.name)} {code(name)}"),
        link(
            escape(format_value(old_value, metric.unit) or "(empty)"),
            snapshot_path,
            f"{key}, previous" if isinstance(old_value, str) else f"{key} = {exact_repr(old_value)}",
        ),
        cite(file, name, metric),
        link(escape(change), snapshot_path, f"{key} = {exact_repr(old_value)} → {exact_repr(metric.value)}")
        if change
        else Markdown("–"),
        Markdown(" → ".join(dict.fromkeys(verdicts))),
    ]


def _name_list(title: str, names: list[str]) -> Iterator[Markdown]:
    if names:
        yield bullet_list([Markdown(f"{title}: {', '.join(code(name) for name in names)}")])
