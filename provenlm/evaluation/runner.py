"""Named probes and a subject in, figures under each probe's name out; a probe that raises is recorded, shown and passed over."""

import time
import traceback
from collections.abc import Mapping

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import log_line, progress_bar
from provenlm.evaluation.probe import EvalContext, Probe


def run_probes(context: EvalContext, probes: Mapping[str, Probe], audit: MetricRecorder) -> None:
    """Ask every probe in order. What one recorded before it raised is dropped: half a measurement proves nothing.

    `errors` counts those that raised. ProvenlmError (a mistake in params.yaml) and KeyboardInterrupt end the run.
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
    audit.add_count("probes", len(probes), "probes", "probes that were asked")
    audit.add_count("errors", num_failed, "probes", "probes that raised an exception instead of measuring")
    audit.tables.append(
        AuditTable(
            "probes",
            "each probe: figures recorded, its wall time, and that of all cores",
            ("probe", "figures", "seconds", "CPU seconds"),
            rows,
        )
    )


def _run_probe(name: str, probe: Probe, context: EvalContext, audit: MetricRecorder) -> bool:
    """True if `probe` raised."""
    try:
        with audit.scope(name) as recorder:
            probe(context, recorder)
    except ProvenlmError:
        raise
    except Exception as error:
        log_line(f"probe {name} raised:\n{traceback.format_exc()}")
        summary = f"{type(error).__name__}: {' '.join(str(error).split())}"
        audit.add_count(f"{name}.error", summary[:300], "", "the probe raised this exception and measured nothing")
        return True
    return False
