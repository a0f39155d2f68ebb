"""Something to do in; a process of its own that does it when asked, and says how long it took there."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Spent:
    """What one call gave, and the seconds that it took where it was made."""

    value: float
    wall: float
    cpu: float


@contextmanager
def apart(make: Callable[[], Callable[[], float]]) -> Iterator[Callable[[], Spent]]:
    """Calls of what `make()` gives there. `make` must be picklable: a function of a module, perhaps with arguments bound to it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, make), daemon=True)
    process.start()
    there.close()

    def call() -> Spent:
        here.send(None)
        spent: Spent = here.recv()  # EOFError if it died
        return spent

    try:
        yield call
    finally:
        here.close()
        process.join()


def _serve(asked: Connection, make: Callable[[], Callable[[], float]]) -> None:
    do = make()
    while True:
        try:
            asked.recv()
        except EOFError:
            return
        begin, used = time.perf_counter(), time.process_time()
        value = do()
        asked.send(Spent(value, time.perf_counter() - begin, time.process_time() - used))
