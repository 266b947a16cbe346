"""Two drivers on one run folder: on a local disk and in S3, alive, dead, on another machine, standing still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.runs.lock import LOCK, PATIENCE, driver_lock
from trace_ray.storage.location import Location, locate

BEAT = 0.3


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return locate(str(tmp_path / "run"), StorageConfig())
    return locate(f"s3://lake/{uuid.uuid4().hex}", request.getfixturevalue("s3"))


def elsewhere(place: Location, **changed: object) -> None:
    """A record as another machine's driver leaves it when it dies; its clock is nowhere in it."""
    record = {"owner": "o", "beat": 7, "host": "node-7", "machine": "other boot", "pid": 1, "born": "1"}
    (place / LOCK).write_text(json.dumps(record | changed))


def test_a_second_driver_is_refused_while_the_first_lives(place: Location) -> None:
    with driver_lock(place, BEAT):
        started = time.monotonic()
        with pytest.raises(UserError, match="is at work on this run"), driver_lock(place, BEAT):
            pass
        assert time.monotonic() - started < PATIENCE * BEAT + 2
    with driver_lock(place, BEAT):
        pass
    assert not (place / LOCK).exists()


def test_who_was_taken_over_unseen_leaves_the_others_record(place: Location) -> None:
    with driver_lock(place, beat_seconds=3600):  # no beat comes to see it
        elsewhere(place, owner="another")
    assert json.loads((place / LOCK).read_text())["owner"] == "another"


def test_a_dead_driver_of_another_machine_is_waited_for_then_replaced(place: Location) -> None:
    elsewhere(place)
    started = time.monotonic()
    with driver_lock(place, BEAT):
        assert time.monotonic() - started >= PATIENCE * BEAT


def test_a_killed_driver_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    place = locate(str(tmp_path / "run"), StorageConfig())
    body = (
        "import os, signal\nfrom trace_ray.config import StorageConfig\nfrom trace_ray.runs.lock import driver_lock\n"
        "from trace_ray.storage.location import locate\n"
        f"with driver_lock(locate({place.path!r}, StorageConfig())):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", body], check=False).returncode == -9
    assert (place / LOCK).exists()
    started = time.monotonic()
    with driver_lock(place, 60.0):
        assert time.monotonic() - started < 5


def test_a_pause_of_the_whole_machine_is_nobodys_death(tmp_path: Path) -> None:
    body = (
        "import sys, time\nfrom trace_ray.config import StorageConfig\nfrom trace_ray.runs.lock import driver_lock\n"
        "from trace_ray.storage.location import locate\n"
        f"with driver_lock(locate({str(tmp_path / 'run')!r}, StorageConfig()), {BEAT}):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    second = start()
    assert second.stderr is not None
    assert "waiting up to" in second.stderr.readline()
    for process in (first, second):
        process.send_signal(signal.SIGSTOP)
    time.sleep(PATIENCE * BEAT + 0.5)
    for process in (second, first):
        process.send_signal(signal.SIGCONT)
    assert "is at work on this run" in second.communicate(timeout=30)[1]
    first.kill()
    first.communicate()


@pytest.mark.parametrize("skew", [-86_400, 86_400])
def test_clocks_that_disagree_make_no_driver_dead_and_keep_none_alive(tmp_path: Path, skew: int) -> None:
    """The other driver's clock is a day off; so is what the file system says of the record it renews."""
    body = (
        "import os, time\nfrom trace_ray.config import StorageConfig\nfrom trace_ray.runs.lock import driver_lock\n"
        "from trace_ray.storage.location import locate\n"
        f"real = time.time\ntime.time = lambda: real() + {skew}\nrun = {str(tmp_path / 'run')!r}\n"
        f"with driver_lock(locate(run, StorageConfig()), {BEAT}):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    place = locate(str(tmp_path / "run"), StorageConfig())
    stopped = threading.Event()

    def date_wrongly() -> None:
        while not stopped.wait(BEAT / 10):
            os.utime((place / LOCK).path, (time.time() + skew,) * 2)

    dating = threading.Thread(target=date_wrongly)
    dating.start()
    with pytest.raises(UserError, match="is at work on this run"), driver_lock(place, BEAT):
        pass
    stopped.set()
    dating.join()
    other.kill()
    other.communicate()
    with driver_lock(place, BEAT):
        pass


def test_an_unreadable_record_stops_nobody(place: Location) -> None:
    (place / LOCK).write_text("{half")
    with driver_lock(place, BEAT):
        pass


def test_of_many_that_find_a_dead_driver_one_wins(place: Location) -> None:
    elsewhere(place)
    inside: list[int] = []
    most: list[int] = []
    guard = threading.Lock()

    def drive(number: int) -> bool:
        try:
            with driver_lock(place, BEAT):
                with guard:
                    inside.append(number)
                    most.append(len(inside))
                time.sleep(4 * BEAT)
                with guard:
                    inside.remove(number)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        won = list(pool.map(drive, range(5)))
    assert max(most) == 1
    assert sum(won) >= 1


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["a terminal", "a background job"])
def interrupts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ctrl-C handled as it is in a terminal, or ignored as a shell has it for what runs behind it."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    assert signal.signal(signal.SIGINT, before) == request.param


@pytest.mark.usefixtures("interrupts")
def test_a_driver_that_stood_still_too_long_stops(place: Location) -> None:
    stood: list[str] = []

    def stand_still() -> None:
        with driver_lock(place, BEAT):
            elsewhere(place)
            started = time.monotonic()
            while time.monotonic() - started < 60:
                time.sleep(0.05)
            stood.append("to the end")

    with pytest.raises(UserError, match="taken over by node-7"):
        stand_still()
    assert not stood
