"""What a local file holds, in 16 hex digits over every byte of it; made once, for as long as nothing touches the file.

A record of it stays good while size, times and inode are what they were: the time of a change (ctime) is the kernel's and
cannot be set back. A file that changed less than ``_SETTLED_SECONDS`` before it was hashed is hashed again next time, since
a further change might leave its times as they are.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

_PIECE_BYTES = 64 << 20
"""What one thread hashes; a larger file's hash is that of its pieces' hashes."""

_READ_BYTES = 1 << 20
_SETTLED_SECONDS = 2.0

Stamp = tuple[int, int, int, int]
known_hashes: dict[str, tuple[Stamp, str]] = {}
"""Local path -> the stamp that the file had and its hash; a run's record adds to it."""

on_hash: list[Callable[[str], None]] = []
"""Told each path that is asked for."""


def content_hash(path: str) -> str:
    """Returns 16 hex digits over a local file's bytes; a file that this process, or the run's record, knows is not read."""
    before, started = _stamp(path), time.time()
    stamp, known = known_hashes.get(path, (None, ""))
    if stamp != before:
        known = _hashed(path, before[0])
        settled = max(before[1:3]) / 1e9 < started - _SETTLED_SECONDS
        if settled and _stamp(path) == before:
            known_hashes[path] = (before, known)
    for told in on_hash:
        told(path)
    return known


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
