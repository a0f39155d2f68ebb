"""Test that process groups end in order, however their owner ends."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import process_groups

SAVES = "import sys, time, signal, pathlib\ntry:\n    print('up', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pathlib.Path(sys.argv[1]).touch()"
IGNORES_SIGINT = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
BLOCKED = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
OWNER = """
import subprocess, sys, time
from flows import process_groups
process = process_groups.spawn([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""


def has_ended(group: int) -> bool:
    """Return whether a group has no process except zombies, which nobody collects in a container."""
    states = [
        (path / "stat").read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*") if (path / "stat").exists()
    ]
    return not [fields for fields in states if int(fields[2]) == group and fields[0] != "Z"]


def test_a_group_whose_starter_is_killed_is_interrupted_and_may_save(tmp_path, eventually):
    saved = tmp_path / "saved"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, SAVES, str(saved)], stdout=subprocess.PIPE, text=True)
    group = int(owner.stdout.readline())
    assert not has_ended(group)
    owner.kill()
    owner.wait()
    eventually(saved.exists)
    eventually(lambda: has_ended(group))


def test_a_group_is_interrupted_when_an_exception_leaves_its_block(tmp_path):
    with (
        pytest.raises(KeyError),
        process_groups.managed_process([sys.executable, "-c", SAVES, str(tmp_path / "saved")], stdout=subprocess.PIPE) as process,
    ):
        process.stdout.readline()
        raise KeyError
    assert (tmp_path / "saved").exists() and process.returncode == 0


def test_the_group_started_last_is_ended_first(tmp_path, monkeypatch):
    """A stage ends before the server that it reports to."""
    monkeypatch.setattr(process_groups, "SHUTDOWN_SIGNALS", ((signal.SIGINT, 1.0),))
    order = tmp_path / "order"
    tells = f"import signal, sys\nprint('up', flush=True)\nsignal.sigwait([signal.SIGINT])\nopen({str(order)!r}, 'a').write(sys.argv[1])"
    started = []
    for name in ("server ", "stage "):
        started.append(process_groups.spawn([sys.executable, "-c", BLOCKED + tells, name], stdout=subprocess.PIPE))
        started[-1].stdout.readline()
    process_groups.reap_orphans(io.StringIO("".join(f"+{process.pid}\n" for process in started)))
    assert order.read_text() == "stage server "
    assert [process.wait() for process in started] == [0, 0]


def test_a_group_that_ignores_the_interrupt_is_terminated(monkeypatch):
    monkeypatch.setattr(process_groups, "SHUTDOWN_SIGNALS", ((signal.SIGINT, 0.3), (signal.SIGTERM, 5.0)))
    process = process_groups.spawn([sys.executable, "-c", IGNORES_SIGINT], stdout=subprocess.PIPE)
    process.stdout.readline()
    process_groups.terminate_groups([process.pid], process.poll)
    assert process.returncode == -signal.SIGTERM


def test_a_second_interrupt_cuts_the_wait_short():
    process = process_groups.spawn([sys.executable, "-c", IGNORES_SIGINT], stdout=subprocess.PIPE)
    process.stdout.readline()
    interrupts = iter([None, None])

    def reap() -> None:
        process.poll()
        if next(interrupts, "waited") is None:
            raise KeyboardInterrupt

    process_groups.terminate_groups([process.pid], reap)
    assert process.wait() == -signal.SIGTERM or process.returncode == -signal.SIGKILL
