"""Parse files in worker processes in parallel.

A worker that hangs or crashes costs one file.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from provenlm.core import hashing
from provenlm.core.records import Record
from provenlm.domains.music.content.score import MEDIA_TYPE
from provenlm.scraping.sources.items import DropReason, SourceItem

T = TypeVar("T")
S = TypeVar("S")
WORKER_MODULE = "provenlm.domains.music.scrape.worker"
MAX_QUEUED_PER_WORKER = 16
READ_BYTES = 1 << 16


class ParserProcess:
    """Send files to one worker process, which is started when it is needed."""

    def __init__(self, command: list[str], timeout_seconds: float) -> None:
        self.command, self.timeout_seconds = command, timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def parse(self, request: Mapping[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the answer and the content that the worker sends.

        The reason is `timeout` or `parser-crash` if it sends none.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        deadline = time.monotonic() + self.timeout_seconds
        writer = threading.Thread(target=self._send, args=(process, request, content), daemon=True)
        writer.start()  # a worker that does not read must not block this thread
        try:
            data = b""
            while b"\n" not in data:
                data += self._receive(process, deadline)
            header, _, body = data.partition(b"\n")
            answer: dict[str, Any] = json.loads(header)
            chunks, num_bytes = [body], len(body)
            while num_bytes < answer["size"]:
                chunks.append(self._receive(process, deadline))
                num_bytes += len(chunks[-1])
            return answer, b"".join(chunks)
        except (TimeoutError, EOFError) as error:
            self.close()
            return {"reason": "timeout" if isinstance(error, TimeoutError) else "parser-crash", "failed": True, "size": 0}, b""
        finally:
            writer.join()

    def close(self) -> None:
        """Stop the worker process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    @staticmethod
    def _send(process: subprocess.Popen[bytes], request: Mapping[str, Any], content: bytes) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n" + content)
            process.stdin.flush()
        except OSError:
            pass  # the worker ended; the reader notices

    @staticmethod
    def _receive(process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        file = process.stdout.fileno()
        if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(file, READ_BYTES)
        if not data:
            raise EOFError
        return data


class ParserPool:
    """Parse items with several worker processes; results keep the order of the items."""

    def __init__(
        self, num_workers: int, timeout_seconds: float, limits: Mapping[str, int], command: list[str] | None = None
    ) -> None:
        self.num_workers, self.limits = num_workers, limits
        self._local = threading.local()
        self._workers: list[ParserProcess] = []
        self._command = command or [sys.executable, "-m", WORKER_MODULE]
        self._timeout_seconds = timeout_seconds
        self._executor = ThreadPoolExecutor(num_workers)

    def parse(self, item: SourceItem) -> Record | DropReason:
        """Turn one item into a record.

        The record is its canonical MIDI file, with the digest of the source in its metadata.
        """
        worker = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = ParserProcess(self._command, self._timeout_seconds)
            self._workers.append(worker)
        request = {"media_type": item.media_type, "size": len(item.content), "limits": dict(self.limits)}
        answer, content = worker.parse(request, item.content)
        if "reason" in answer:
            return DropReason(answer["reason"], answer["failed"])
        metadata = {**item.metadata, **answer["metadata"], "source_sha256": hashing.sha256_bytes(item.content)}
        return Record.from_content(content, MEDIA_TYPE, item.url, **metadata)

    def map(self, function: Callable[[T], S], values: Iterable[T]) -> Iterator[S]:
        """Yield `function` of every value in order, with several values in work."""
        pending: deque[Future[S]] = deque()
        for value in values:
            pending.append(self._executor.submit(function, value))
            if len(pending) > self.num_workers * MAX_QUEUED_PER_WORKER:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def __enter__(self) -> "ParserPool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._executor.shutdown(wait=True)
