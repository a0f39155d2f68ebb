"""Define tasks that misbehave in a worker; the worker imports them."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from provenlm.domains.grids.evaluate.budgets.oom_ladder import TaskPlan, run_with_ladder
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel

MEGABYTE = 10**6


def misbehave(task: Any, channel: TaskChannel) -> TaskOutcome:
    """Do what `task` names."""
    kind, argument = task if isinstance(task, tuple) else (task, None)
    return FUNCTIONS[kind](argument, channel)


def succeed(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Return an outcome with all fields."""
    return TaskOutcome([[argument]], 12, 3, 2.5, 1.5, 8, (5, 2))


def hang(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Send an answer and sleep, deaf to SIGTERM."""
    channel.send_answer(TaskOutcome("early", num_views=1))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(100)
    raise AssertionError


def spin(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Use the CPU without end."""
    while True:
        pass


def spawn_child(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Start a process that would outlive the task, and hang."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    channel.send_answer(TaskOutcome(child.pid))
    time.sleep(100)
    raise AssertionError


def allocate(megabytes: int, channel: TaskChannel) -> TaskOutcome:
    """Allocate memory with Python."""
    return TaskOutcome(len(b"x" * (megabytes * MEGABYTE)))


def allocate_tensor(megabytes: int, channel: TaskChannel) -> TaskOutcome:
    """Allocate memory with torch, which raises no MemoryError."""
    import torch

    return TaskOutcome(torch.ones(megabytes * MEGABYTE, dtype=torch.uint8).numel())


def climb(megabytes: int, channel: TaskChannel) -> TaskOutcome:
    """Allocate `megabytes` for each lesson of a micro-batch, with the ladder."""

    def attempt(plan: TaskPlan) -> int:
        return len(bytearray(plan.micro_batch_size * megabytes * MEGABYTE))

    size, plan = run_with_ladder(TaskPlan(4, num_views=8, rank=4), attempt, channel.log_rung)
    return TaskOutcome([size, plan.micro_batch_size, plan.num_micro_batches])


def fail(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Raise an exception."""
    raise ValueError("planted\nfault")


def kill_self(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Die as the kernel's out-of-memory killer makes a process die."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def leave(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Exit without a result."""
    os._exit(3)


def return_function(argument: Any, channel: TaskChannel) -> TaskOutcome:
    """Return what cannot be sent."""
    return TaskOutcome(lambda: None)


FUNCTIONS = {
    "ok": succeed,
    "hang": hang,
    "spin": spin,
    "child": spawn_child,
    "allocate": allocate,
    "tensor": allocate_tensor,
    "climb": climb,
    "fail": fail,
    "kill": kill_self,
    "leave": leave,
    "function": return_function,
}
