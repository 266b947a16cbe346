"""What a run knows of its files' contents, kept in its folder, so that the next process need not read them again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from trace_ray.storage import fingerprints
from trace_ray.storage.location import Location

RECORD = "fingerprints.json"
"""In a run's folder: {path: [size, mtime, ctime, inode, hash]}."""

_KEEP_SECONDS = 10.0


@contextmanager
def remembered(run: Location) -> Iterator[None]:
    """While open, what a run's record says of files is known, and what is found goes there."""
    recall(run)
    keeper = _Keeper(run / RECORD)
    fingerprints.on_hash.append(keeper.note)
    try:
        yield
    finally:
        fingerprints.on_hash.remove(keeper.note)
        keeper.keep()


def recall(run: Location) -> None:
    """Knows from now on what a run's record says; a damaged one says nothing."""
    try:
        record = json.loads((run / RECORD).read_bytes())
        found = {path: ((a, b, c, d), str(known)) for path, (a, b, c, d, known) in record.items()}
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError):
        return
    fingerprints.known_hashes.update(found)


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
            known = {path: fingerprints.known_hashes.get(path) for path in sorted(self.asked)}
            record = {path: [*found[0], found[1]] for path, found in known.items() if found is not None}
            if len(record) > self.kept:
                self.place.write_text(json.dumps(record))
                self.kept = len(record)
