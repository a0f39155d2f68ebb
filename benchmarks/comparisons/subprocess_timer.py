"""Run a function in another process and time each call there."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Timing:
    """Hold the result of a call and the seconds it took in its process."""

    value: float
    wall: float
    cpu: float


@contextmanager
def in_subprocess(factory: Callable[[], Callable[[], float]]) -> Iterator[Callable[[], Timing]]:
    """Yield a function that calls the result of `factory()` in a new process.

    The process calls `factory` only once.

    `factory` must be picklable: a module-level function, possibly with bound arguments.
    """
    parent_end, child_end = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(child_end, factory), daemon=True)
    process.start()
    child_end.close()

    def call() -> Timing:
        parent_end.send(None)
        timing: Timing = parent_end.recv()  # EOFError if the process died
        return timing

    try:
        yield call
    finally:
        parent_end.close()
        process.join()


def _serve(connection: Connection, factory: Callable[[], Callable[[], float]]) -> None:
    function = factory()
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        value = function()
        connection.send(Timing(value, time.perf_counter() - wall_start, time.process_time() - cpu_start))
