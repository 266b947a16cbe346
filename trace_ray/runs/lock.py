"""One driver a run: a record in the run's folder that its holder renews; a second driver watches it and refuses.

No clocks are compared: a record is dead when the watcher has looked ``PATIENCE`` heartbeats long, look by look, and seen
it unchanged (a watcher that was itself stopped counts no time), or when it names a process of this very machine that is
gone. Records change only on condition that they are still what was last seen (ETag on S3, a file lock locally), so of
two that find a dead one, one wins.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from trace_ray.errors import UserError
from trace_ray.runtime.interrupts import heard
from trace_ray.storage import object_store
from trace_ray.storage.location import Location
from trace_ray.storage.object_store import ChangedError

LOCK = "driver.json"
BEAT_SECONDS = 5.0
PATIENCE = 4
"""Heartbeats that a record may stay unchanged before its driver counts as dead."""

_LOOKS_A_BEAT = 4


@dataclass(frozen=True)
class Record:
    """What the lock holds.

    Args:
        owner: drawn anew by every driver; beat: counts up while it lives.
        host, machine, pid, born: the driver's process, born in the kernel's ticks since boot; machine tells boots and
            containers apart.
        doing: what it is at, in words, for people who ask how far the run is.
    """

    owner: str
    beat: int
    host: str
    machine: str
    pid: int
    born: str
    doing: str = ""

    @property
    def gone(self) -> bool:
        """Whether its process was one of this machine and lives no more."""
        return self.machine == _machine() and _birth(self.pid) != self.born

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@contextmanager
def driver_lock(
    place: Location, beat_seconds: float = BEAT_SECONDS, doing: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Holds the run while the body runs.

    Args:
        doing: asked at each beat what the driver is at, in words.
    Raises: UserError where the folder cannot be written to, or another live driver holds it; finding that out takes at
        most ``PATIENCE`` beats.
    """
    lock = _Lock(place / LOCK, beat_seconds, doing)
    try:
        lock.acquire()
    except OSError as error:
        raise UserError("--run", place.uri, f"cannot be written to: {' '.join(str(error).split())[:200]}") from None
    try:
        with heard(lambda: lock.lost):
            yield
        lock.check()
    except KeyboardInterrupt:
        lock.check()
        raise
    finally:
        lock.release()


class _Lock:
    def __init__(self, place: Location, beat_seconds: float, doing: Callable[[], str]) -> None:
        self.place, self.beat_seconds, self.doing = place, beat_seconds, doing
        self.mine = Record(uuid.uuid4().hex, 0, socket.gethostname(), _machine(), os.getpid(), _birth(os.getpid()))
        self.version = ""
        self.lost = ""
        self.stop = threading.Event()
        self.beating = threading.Thread(target=self._beat, name="driver-lock", daemon=True)

    def acquire(self) -> None:
        watched, looks = "", 0
        while True:
            held = _read(self.place)
            if held is None:
                taken = self._try(None)
            else:
                record, version = held
                if version != watched:
                    if watched and record is not None:
                        raise self._held_by(record)
                    watched, looks = version, 0
                    if record is not None and not record.gone:
                        self._say_waiting(record)
                dead = record is None or record.gone or looks > PATIENCE * _LOOKS_A_BEAT
                taken = self._try(version) if dead else False
            if taken:
                self.beating.start()
                return
            looks += 1
            time.sleep(self.beat_seconds / _LOOKS_A_BEAT)

    def _try(self, version: str | None) -> bool:
        try:
            self.version = _write(self.place, self.mine.encoded(), version)
        except ChangedError:
            held = _read(self.place)
            if held is None or held[0] is None or held[0].owner != self.mine.owner:
                return False
            self.version = held[1]  # our own write, whose answer was lost and which was sent again
        return True

    def _beat(self) -> None:
        while not self.stop.wait(self.beat_seconds):
            self.mine = replace(self.mine, beat=self.mine.beat + 1, doing=self.doing())
            try:
                if not self._try(self.version):
                    held = _read(self.place)
                    self.lost = f"{held[0].host} pid {held[0].pid}" if held and held[0] else "another driver"
            except object_store.transient_errors() as error:  # the next beat tries again
                sys.stderr.write(f"trace-ray: heartbeat of {self.place.uri}: {error}\n")
            if self.lost:
                os.kill(os.getpid(), signal.SIGINT)
                return

    def check(self) -> None:
        if self.lost:
            raise UserError("--run", self.place.uri, f"taken over by {self.lost} while this driver stood still")

    def release(self) -> None:
        self.stop.set()
        self.beating.join()
        if self.lost:
            return
        try:
            held = _read(self.place)
            if held and held[0] and held[0].owner == self.mine.owner:
                self.place.fs.delete_file(self.place.path)
        except object_store.transient_errors() as error:  # the next driver finds it dead
            sys.stderr.write(f"trace-ray: {self.place.uri} stays behind: {error}\n")

    def _say_waiting(self, record: Record) -> None:
        seconds = PATIENCE * self.beat_seconds
        who = f"a driver on {record.host} (pid {record.pid})"
        sys.stderr.write(f"trace-ray: {who} held this run; waiting up to {seconds:.0f} s to see whether it lives\n")

    def _held_by(self, record: Record) -> UserError:
        who = f"driver pid {record.pid} on {record.host}"
        return UserError(
            "--run", self.place.uri, f"{who} is at work on this run; wait for it, or stop it and run again"
        )


def _read(place: Location) -> tuple[Record | None, str] | None:
    """Returns the record (None where it is unreadable) and its version; None where there is no lock."""
    try:
        if place.is_local:
            data = place.read_bytes()
            version = data.decode("utf-8", "replace")
        else:
            data, version = object_store.get_version(place.fs, place.path)
    except FileNotFoundError:
        return None
    try:
        known = {field.name for field in fields(Record)}  # a later version's driver may say more
        return Record(**{name: value for name, value in json.loads(data).items() if name in known}), version
    except (ValueError, TypeError, AttributeError):
        return None, version


def holder(place: Location) -> Record | None:
    """Returns the record of whoever holds the run in this folder, None where nobody does."""
    held = _read(place / LOCK)
    return held[0] if held else None


def _write(place: Location, data: bytes, version: str | None) -> str:
    """Replaces the record on condition that it is ``version`` (None: absent); returns its new version."""
    if not place.is_local:
        return object_store.put_if(place.fs, place.path, data, version)
    folder, name = os.path.split(place.path)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f".{name}.guard"), "w") as guard:  # as in storage/staging.py, instead of filelock
        fcntl.flock(guard, fcntl.LOCK_EX)
        held = _read(place)
        if (held[1] if held else None) != version:
            raise ChangedError(place.path)
        place.write_bytes(data)
    return data.decode()


def _birth(pid: int) -> str:
    """Returns when a process was started, in ticks since boot; nothing where there is none or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _machine() -> str:
    """Returns what tells this boot and process namespace from others; nothing alike where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex
