"""Keeps one line of Ray's off this process' standard error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

STRAY = "ray/issues/53727"
"""In the line: Ray's C++ warns of the arguments that Ray Data itself gives a pool's actors, at the start of every pool.

RAY_BACKEND_LOG_LEVEL would take the errors of the cluster's daemons away with it.
"""
_FILTER = f"""
import sys
for line in iter(sys.stdin.buffer.readline, b""):
    if {STRAY.encode()!r} not in line:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
_LAST_WORDS_S = 1.0


@contextmanager
def without_stray_line() -> Iterator[None]:
    """While open, what libraries write to file descriptor 2 comes without that line; what Python writes comes as it is.

    A process of its own filters, so that the last words of one that is killed come too. Nothing is done where debugging
    output is asked for, or standard error is not this process' own, as in tests and notebooks.
    """
    before = sys.stderr
    if os.environ.get("TRACE_RAY_DEBUG") == "1" or not _is_own(before):
        yield
        return
    kept = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    filtering = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=kept, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert filtering.stdin is not None
    with filtering.stdin as lines:
        os.dup2(lines.fileno(), 2)
    sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)
    try:
        yield
    finally:
        sys.stderr = before
        os.dup2(kept, 2)  # the filter ends here, unless a process that was started meanwhile goes on writing to it
        os.close(kept)
        with suppress(subprocess.TimeoutExpired):
            filtering.wait(_LAST_WORDS_S)


def _is_own(stream: IO[str] | None) -> bool:
    try:
        own = sys.__stderr__
        return own is not None and stream is own and own.fileno() == 2
    except OSError:  # io.UnsupportedOperation
        return False
