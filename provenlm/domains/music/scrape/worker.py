"""Parse files that arrive on standard input, one request at a time.

Run as `python -m provenlm.domains.music.scrape.worker`.

A request is a line of JSON (media type, number of bytes, limits) and the bytes of the file; an answer is a line of JSON and the bytes of
the canonical MIDI file. Parsers written in C print to file descriptors 1 and 2: both lead to /dev/null.
"""

import json
import os
import resource
import sys
from typing import Any, BinaryIO

from provenlm.domains.music.scrape.parsers import ParseLimits, RefusalError, parse_file

MAX_MEMORY_BYTES = 4 << 30  # address space of a worker


def answer_requests(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer every request until the input ends."""
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["size"])
        canonical, answer = _answer(content, request)
        answers.write(json.dumps({**answer, "size": len(canonical)}).encode() + b"\n" + canonical)
        answers.flush()


def _answer(content: bytes, request: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    try:
        canonical, metadata = parse_file(content, request["media_type"], ParseLimits(**request["limits"]))
    except RefusalError as refusal:
        return b"", {"reason": refusal.reason, "failed": refusal.failed}
    except MemoryError:
        return b"", {"reason": "out-of-memory", "failed": True}
    except Exception:  # no file may end a scrape, whatever its parser raises
        return b"", {"reason": "unreadable", "failed": True}
    return canonical, {"metadata": metadata}


def main() -> None:
    """Redirect the output of C code and answer requests."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer_requests(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
