"""Run probes in order; record and log the exception of a probe that raises, and continue."""

import time
import traceback
from collections.abc import Mapping

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import log_line, progress_bar
from provenlm.evaluation.probe import EvalContext, Probe


def run_probes(context: EvalContext, probes: Mapping[str, Probe], audit: MetricRecorder) -> None:
    """Run `probes` in order and record the metrics of each under its name.

    Metrics that a probe recorded before it raised are dropped, because half a measurement proves nothing; `eval.failures` counts
    the probes that raised. ProvenlmError (a mistake in params.yaml) and KeyboardInterrupt end the run.
    """
    context.model.eval()
    rows: list[tuple[str, int, float, float]] = []
    num_failed = 0
    with progress_bar("validate", "probes", len(probes)) as bar:
        for name, probe in probes.items():
            wall_start, cpu_start, num_before = time.perf_counter(), time.process_time(), len(audit.metrics)
            num_failed += _run_probe(name, probe, context, audit)
            durations = (round(time.perf_counter() - wall_start, 3), round(time.process_time() - cpu_start, 3))
            rows.append((name, len(audit.metrics) - num_before, *durations))
            bar.update(postfix=name)
    audit.add_count("eval.num_probes", len(probes), "probes", "Probes that were run")
    audit.add_count("eval.failures", num_failed, "probes", "Probes that raised an exception instead of recording metrics")
    audit.tables.append(
        AuditTable(
            "probes",
            "Each probe: number of metrics, wall time, and CPU time of all cores",
            ("probe", "metrics", "seconds", "CPU seconds"),
            rows,
        )
    )


def _run_probe(name: str, probe: Probe, context: EvalContext, audit: MetricRecorder) -> bool:
    """Run one probe and return whether it raised."""
    try:
        with audit.scope(name) as recorder:
            probe(context, recorder)
    except ProvenlmError:
        raise
    except Exception as error:
        log_line(f"probe {name} raised:\n{traceback.format_exc()}")
        summary = f"{type(error).__name__}: {' '.join(str(error).split())}"
        audit.add_count(f"{name}.error", summary[:300], "", f"Exception that probe {name} raised; it recorded no metrics")
        return True
    return False
