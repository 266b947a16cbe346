"""What a local file holds, in 16 hex digits over every byte of it; made once, for as long as nothing touches the file.

A record of it stays good while size, times and inode are what they were: the time of a change (ctime) is the kernel's and
cannot be set back. A file that changed less than ``_SETTLED_SECONDS`` before it was hashed is hashed again next time, since
a further change might leave its times as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trace_ray.storage.location import Location

RECORD = "fingerprints.json"
"""In a run's folder: {path: [size, mtime, ctime, inode, hash]}."""

_PIECE_BYTES = 64 << 20
"""What one thread hashes; a larger file's hash is that of its pieces' hashes."""

_READ_BYTES = 1 << 20
_SETTLED_SECONDS = 2.0
_KEEP_SECONDS = 10.0

Stamp = tuple[int, int, int, int]
_known: dict[str, tuple[Stamp, str]] = {}
_keepers: list[_Keeper] = []


def content_hash(path: str) -> str:
    """Returns 16 hex digits over a local file's bytes; a file that this process, or the run's record, knows is not read."""
    before, started = _stamp(path), time.time()
    stamp, known = _known.get(path, (None, ""))
    if stamp != before:
        known = _hashed(path, before[0])
        settled = max(before[1:3]) / 1e9 < started - _SETTLED_SECONDS
        if settled and _stamp(path) == before:
            _known[path] = (before, known)
    for keeper in _keepers:
        keeper.note(path)
    return known


@contextmanager
def remembered(run: Location) -> Iterator[None]:
    """While open, what a run's record says of files is known, and what is found goes there."""
    recall(run)
    keeper = _Keeper(run / RECORD)
    _keepers.append(keeper)
    try:
        yield
    finally:
        _keepers.remove(keeper)
        keeper.keep()


def recall(run: Location) -> None:
    """Knows from now on what a run's record says; a damaged one says nothing."""
    try:
        record = json.loads((run / RECORD).read_bytes())
        found = {path: ((a, b, c, d), str(known)) for path, (a, b, c, d, known) in record.items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError):
        return
    _known.update(found)


class _Keeper:
    """Writes what is known of the files that were asked for, now and then and at the end."""

    def __init__(self, place: Location) -> None:
        self.place, self.asked, self.kept = place, set[str](), 0
        self.next = time.monotonic() + _KEEP_SECONDS
        self.lock = threading.Lock()

    def note(self, path: str) -> None:
        with self.lock:
            self.asked.add(path)
            due = time.monotonic() > self.next
        if due:
            self.keep()

    def keep(self) -> None:
        with self.lock:
            self.next = time.monotonic() + _KEEP_SECONDS
            record = {path: [*_known[path][0], _known[path][1]] for path in sorted(self.asked) if path in _known}
            if len(record) > self.kept:
                self.place.write_text(json.dumps(record))
                self.kept = len(record)


def _stamp(path: str) -> Stamp:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _hashed(path: str, size: int) -> str:
    starts = range(0, max(1, size), _PIECE_BYTES)
    pieces = [_piece(path, 0)] if len(starts) == 1 else list(_threads().map(lambda start: _piece(path, start), starts))
    return hashlib.sha256(f"{size}:".encode() + b"".join(pieces)).hexdigest()[:16]


def _piece(path: str, start: int) -> bytes:
    """Hashes at most ``_PIECE_BYTES``; hashlib lets other threads work meanwhile."""
    digest, left = hashlib.sha256(), _PIECE_BYTES
    buffer = memoryview(bytearray(_READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (read := file.readinto(buffer[: min(left, _READ_BYTES)])):
            digest.update(buffer[:read])
            left -= read
    return digest.digest()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="fingerprints")
