"""Run probes in order and decide which apply.

The exception of a probe that raises is recorded and logged.
"""

import time
import traceback
from collections.abc import Mapping

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import log_line, progress_bar
from provenlm.evaluation.probe import EvalContext, Probe


def run_probes(
    context: EvalContext, probes: Mapping[str, Probe], recorder: MetricRecorder, available: Mapping[str, str | None]
) -> None:
    """Run the applicable probes in order and record their metrics by probe.

    A probe with an unmet need (`available` gives the reason) is recorded as not applicable and not called. Metrics that a probe
    recorded before it raised are dropped, because half a measurement proves nothing; a probe that records nothing counts as
    failed. `eval.failures` counts both. The checks of every probe are recorded, whether it ran, failed or does not apply.
    ProvenlmError (a mistake in params.yaml) and KeyboardInterrupt end the run. ValueError if a need is unknown.
    """
    for name, probe in probes.items():
        if unknown := sorted(probe.needs - available.keys()):
            raise ValueError(f"probe {name}: unknown need {unknown[0]!r}; known: {', '.join(sorted(available))}")
    context.model.eval()
    rows: list[tuple[str, str, int, float, float]] = []
    with progress_bar("validate", "probes", len(probes)) as bar:
        for name, probe in probes.items():
            for metric, check in probe.checks.items():
                recorder.add_check(f"{name}.{metric}", check.expect, check.hint)
            wall_start, cpu_start, num_before = time.perf_counter(), time.process_time(), len(recorder.metrics)
            if reasons := [reason for need in sorted(probe.needs) if (reason := available[need]) is not None]:
                recorder.add_not_applicable(name, "; ".join(reasons))
                outcome, num_before = "not applicable", len(recorder.metrics)
            else:
                outcome = "failed" if _fails(name, probe, context, recorder) else "measured"
            durations = (round(time.perf_counter() - wall_start, 3), round(time.process_time() - cpu_start, 3))
            rows.append((name, outcome, len(recorder.metrics) - num_before, *durations))
            bar.update(postfix=name)
    outcomes = [row[1] for row in rows]
    recorder.add_count("eval.num_probes", len(probes), "probes", "Probes of the model and of its domain")
    recorder.add_count(
        "eval.not_applicable", outcomes.count("not applicable"), "probes", "Probes that the model or the recipe cannot have"
    )
    recorder.add_count(
        "eval.failures", outcomes.count("failed"), "probes", "Probes that raised an exception or recorded no metrics"
    )
    recorder.add_check("eval.failures", "== 0", "a probe failed: its .error metric names the exception")
    columns = ("probe", "outcome", "metrics", "seconds", "CPU seconds")
    description = "Each probe: outcome, number of metrics, wall time, and CPU time of all cores"
    recorder.tables.append(AuditTable("probes", description, columns, rows))


def _fails(name: str, probe: Probe, context: EvalContext, recorder: MetricRecorder) -> bool:
    """Run one probe and return whether it failed."""
    try:
        with recorder.scope(name) as scoped:
            probe.run(context, scoped)
            if not scoped.metrics:
                raise ValueError("the probe recorded no metrics")
    except ProvenlmError:
        raise
    except Exception as error:
        log_line(f"probe {name} raised:\n{traceback.format_exc()}")
        summary = f"{type(error).__name__}: {' '.join(str(error).split())}"
        recorder.add_count(f"{name}.error", summary[:300], "", f"Exception that probe {name} raised; it recorded no metrics")
        return True
    return False
