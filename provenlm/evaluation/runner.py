"""Named probes and a subject in, figures under each probe's name out; a probe that raises is recorded, shown and passed over."""

import time
import traceback
from collections.abc import Mapping

from provenlm.core.audit import Recorder, Table
from provenlm.core.errors import UserError
from provenlm.core.progress import progress, say
from provenlm.evaluation.probe import Probe, Subject


def run(subject: Subject, probes: Mapping[str, Probe], audit: Recorder) -> None:
    """Ask every probe in order. What one recorded before it raised is dropped: half a measurement proves nothing.

    `errors` counts those that raised. UserError (a mistake in params.yaml) and KeyboardInterrupt end the run.
    """
    subject.model.eval()
    rows: list[tuple[str, int, float, float]] = []
    raised = 0
    with progress("validate", "probes", len(probes)) as bar:
        for name, probe in probes.items():
            clock, cpu, before = time.perf_counter(), time.process_time(), len(audit.figures)
            raised += _ask(name, probe, subject, audit)
            spent = (round(time.perf_counter() - clock, 3), round(time.process_time() - cpu, 3))
            rows.append((name, len(audit.figures) - before, *spent))
            bar.advance(note=name)
    audit.counted("probes", len(probes), "probes", "probes that were asked")
    audit.counted("errors", raised, "probes", "probes that raised an exception instead of measuring")
    audit.tables.append(
        Table(
            "probes",
            "each probe: figures recorded, its wall time, and that of all cores",
            ("probe", "figures", "seconds", "CPU seconds"),
            rows,
        )
    )


def _ask(name: str, probe: Probe, subject: Subject, audit: Recorder) -> bool:
    """True if `probe` raised."""
    try:
        with audit.under(name) as recorder:
            probe(subject, recorder)
    except UserError:
        raise
    except Exception as error:
        say(f"probe {name} raised:\n{traceback.format_exc()}")
        word = f"{type(error).__name__}: {' '.join(str(error).split())}"
        audit.counted(f"{name}.error", word[:300], "", "the probe raised this exception and measured nothing")
        return True
    return False
