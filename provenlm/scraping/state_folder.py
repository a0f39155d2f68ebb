"""Lock the state folder of a corpus and say why its disk takes no write."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provenlm.core.errors import DataError

FULL_DISK_BYTES = 1 << 20  # with less free space, a failed write means a full disk


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`.

    The kernel releases it when the process ends, however it ends.

    Raises DataError that names the process which holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise DataError(f"{path.parent.as_posix()}: in use by process {holder}; wait until it ends, or end it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def readable_disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the operating system into a DataError of one line."""
    try:
        yield
    except OSError as error:
        name = Path(error.filename).as_posix() if isinstance(error.filename, str) else folder.as_posix()
        raise DataError(f"{name}: {error.strerror or error}; {disk_advice(folder)}") from None


def disk_advice(folder: Path) -> str:
    """Say what a user can do about a failed write to `folder`."""
    folder = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < FULL_DISK_BYTES:
        return f"the disk is full ({free_bytes} bytes are free); make room and run the same command again"
    return "the disk, its permissions and the limits of the process must allow a write; then run the same command again"
