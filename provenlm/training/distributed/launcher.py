"""Start the processes of a distributed run on this machine.

Like `torchrun --standalone`, without its error report: the processes report their own errors. On several machines torchrun starts the
same command on each (docs/how-to/distributed-training.md).
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from provenlm.core.errors import ProvenlmError
from provenlm.training.config_sections import DistributedConfig

LAUNCHER_PID_ENV = "PROVENLM_LAUNCHER"  # environment variable of launched processes: the process that they end with
LOOPBACK_INTERFACES = {"linux": "lo", "darwin": "lo0"}
POLL_SECONDS = 0.2


def needs_launch(config: DistributedConfig | None) -> bool:
    """Return whether this process has to launch the others.

    True if more than one process is configured and this one was not launched.
    """
    return config is not None and config.world_size > 1 and "WORLD_SIZE" not in os.environ


def launch_workers(num_processes: int, command: Sequence[str]) -> int:
    """Run `command` in `num_processes` processes; return their exit status.

    Returns -n if signal n ended the launcher. When one process ends early, all are ended. A signal is forwarded; the processes then have 30
    seconds (TORCH_ELASTIC_SHUTDOWN_TIMEOUT) to save. Raises ProvenlmError if a process was killed by a signal.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER_PID_ENV] = str(os.getpid())
    if sys.platform in LOOPBACK_INTERFACES:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_INTERFACES[sys.platform])
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except SignalException as interrupt:
            return -int(interrupt.sigval)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0:
                return failure.exitcode
            name = signal.Signals(-failure.exitcode).name
            raise ProvenlmError(
                f"process {rank} of {num_processes} was killed by {name}; the next run resumes from the latest checkpoint"
            ) from None
    return 0


def exit_with_parent() -> None:
    """Kill this process as soon as the launcher ends, for whatever reason.

    Each process has its own session, so nothing else would reach it, and it could write where the next run writes.
    """
    launcher_pid = int(os.environ.get(LAUNCHER_PID_ENV, os.getppid()))

    def wait_for_parent() -> None:
        while os.getppid() == launcher_pid:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_parent, name="launcher", daemon=True).start()
