"""A pool of actors: its starts and mistakes, what an actor reads ahead, a GPU that nobody asked for is hidden."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trace_ray.cluster import data_pool
from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.data_pool import pooled
from trace_ray.config import JudgeConfig, RayConfig
from trace_ray.errors import EngineStartError, UserError
from trace_ray.pipeline import user_error_in

POOL = JudgeConfig(num_cpus=0.5)


@pytest.fixture(autouse=True)
def ray() -> None:
    ensure_ray(RayConfig(local_cpus=2))


def starting(kind: type[UserError]) -> type:
    """A class of this function, so that it travels to the workers by value."""

    class Starts:
        def __init__(self, log: str, failures: int) -> None:
            with open(log, "a") as starts:
                starts.write("x")
            if os.path.getsize(log) <= failures:
                raise kind("triage.judge.model", "m", "Free memory on device")

        def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
            return {"seen": item["block"], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "unset")}

    return Starts


def run(folder: Path, kind: type[UserError], failures: int) -> list[dict[str, Any]]:
    items = [{"block": i} for i in range(3)]
    return list(pooled(starting(kind), (str(folder / "starts"), failures), items, POOL, pause_s=0.0))


def test_a_start_that_fails_for_now_is_tried_again_and_no_gpu_is_seen(tmp_path: Path) -> None:
    rows = run(tmp_path, EngineStartError, failures=1)
    assert sorted(row["seen"] for row in rows) == [0, 1, 2]
    assert (tmp_path / "starts").read_text() == "xx"
    assert {row["gpus"] for row in rows} == {""}  # nobody asked for one


@pytest.mark.parametrize(("kind", "starts"), [(UserError, 1), (EngineStartError, 2)])
def test_a_mistake_ends_the_run_at_once_and_what_never_passes_in_the_end(
    tmp_path: Path, kind: type[UserError], starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either is one line at the driver, however Ray wraps it: met at work, and at the start."""
    monkeypatch.setattr(data_pool, "_STARTS", 1)
    with pytest.raises(Exception, match="Free memory") as caught:
        run(tmp_path, kind, failures=99)
    assert str(user_error_in(caught.value)) == "triage.judge.model: m: Free memory on device"
    assert len((tmp_path / "starts").read_text()) == starts


def reading(items: int) -> type:
    """Works on an item until the next one has been read: for a minute, or it never is."""

    class Reads:
        def __init__(self, folder: str) -> None:
            self.folder, self.worked, self.turn = Path(folder), 0, threading.Lock()

        def read(self, item: dict[str, Any]) -> str:
            (self.folder / str(item["block"])).touch()
            return f"pairs of {item['block']}"

        def work(self, item: dict[str, Any], read: str) -> dict[str, Any]:
            assert self.turn.acquire(blocking=False), "two items are worked on at once"
            awaited, given_up = min(items, self.worked + 2), time.monotonic() + 60
            while len(os.listdir(self.folder)) < awaited and time.monotonic() < given_up:
                time.sleep(0.01)
            self.worked += 1
            self.turn.release()
            return {"block": item["block"], "read": read, "seen": len(os.listdir(self.folder)), "awaited": awaited}

    return Reads


def test_the_next_item_is_read_while_one_is_worked_on_and_no_more_than_that(tmp_path: Path) -> None:
    items = [{"block": i} for i in range(5)]
    rows = list(pooled(reading(5), (str(tmp_path),), items, POOL, ahead=True))
    assert {row["block"]: row["read"] for row in rows} == {i: f"pairs of {i}" for i in range(5)}
    assert sorted(row["seen"] for row in rows) == [2, 3, 4, 5, 5]
    assert [row["seen"] for row in rows] == [row["awaited"] for row in rows]


def test_a_pool_that_reads_ahead_grows_like_another_one(tmp_path: Path) -> None:
    """Ray Data counts items in flight a call; two calls an actor must not look half idle to it."""
    pool = replace(POOL, actors=1, max_actors=3)
    items = [{"block": i} for i in range(12)]
    rows = list(pooled(meeting(3), (str(tmp_path),), items, pool, ahead=True))
    assert sorted(row["block"] for row in rows) == list(range(12))


def meeting(actors: int) -> type:
    """Works once so many actors are there."""

    class Meets:
        def __init__(self, folder: str) -> None:
            self.folder = Path(folder)
            (self.folder / str(os.getpid())).touch()

        def read(self, item: dict[str, Any]) -> dict[str, Any]:
            return item

        def work(self, item: dict[str, Any], _read: dict[str, Any]) -> dict[str, Any]:
            given_up = time.monotonic() + 120
            while len(os.listdir(self.folder)) < actors:
                if time.monotonic() > given_up:
                    raise TimeoutError(f"{os.listdir(self.folder)} alone")
                time.sleep(0.05)
            return item

    return Meets
