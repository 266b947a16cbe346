"""The pool of stage 2's actors, with functions that need no model: every call answered, deaths made good, none left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from trace_ray.cluster import actor_pool
from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config
from trace_ray.errors import UserError


@pytest.fixture
def pool() -> Iterator[ActorPool]:
    ensure_ray(Config().ray)
    with ActorPool(ray.cluster_resources()["CPU"] / 2) as made:
        yield made


def test_every_call_is_answered_by_two_actors(
    pool: ActorPool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_pool, "_LOOK_S", 600.0)  # beside other work a second actor may take minutes to come up

    def square(number: int) -> tuple[int, int]:
        return number * number, os.getpid()

    def counted(upto: int) -> Iterator[int]:
        yield from range(upto)

    found = dict(pool.each(square, [(number, (number,)) for number in range(40)]))
    assert {key: value for key, (value, _) in found.items()} == {number: number**2 for number in range(40)}
    assert len({pid for _, pid in found.values()}) <= 2
    assert (pool.settle(1), pool.settle(9)) == (1, 2)
    streams = pool.streams(counted, [(3,), (5,)])
    assert [[ray.get(part) for part in stream] for stream in streams] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert [value for value, _ in pool.gathered(square, [(7,), (3,)])] == [49, 9]
    assert "retr" not in "".join(capfd.readouterr())


def test_a_call_whose_actor_died_is_made_again(pool: ActorPool, tmp_path: Path) -> None:
    def dying(number: int) -> int:
        marker = tmp_path / "killed"
        if number == 5 and not marker.exists():
            marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    found = [key for key, _ in pool.each(dying, [(number, (number,)) for number in range(12)])]
    assert sorted(found) == list(range(12))
    assert (tmp_path / "killed").exists()


def test_a_mistake_ends_the_work(pool: ActorPool) -> None:
    def mistaken(number: int) -> int:
        raise UserError("some.setting", number, "use another")

    with pytest.raises(UserError, match=r"some\.setting"):
        list(pool.each(mistaken, [(number, (number,)) for number in range(3)]))
