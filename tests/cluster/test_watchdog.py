"""A run that gets nothing done ends, and so does one that has cost enough; by clocks that are made up."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from trace_ray.cluster.watchdog import SPENT, Limits, Spent, watched
from trace_ray.config import PlanConfig, RayConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.errors import StalledError, UserError
from trace_ray.runtime.endings import told
from trace_ray.runtime.progress import Meter, done, working
from trace_ray.storage.location import locate

MINUTE = 60.0


def test_it_is_over_when_nothing_was_done_for_so_long() -> None:
    limits = Limits(stall_minutes=10, max_cost=0)
    work = [(0, 0), (9, 0), (9.5, 1), (19, 1)]
    assert [limits.look(at * MINUTE, count, 0) for at, count in work] == [None] * 4
    with working("triage"):
        problem = limits.look(19.5 * MINUTE, 1, 0)
    assert isinstance(problem, StalledError)
    assert str(problem) == "triage: nothing done for 10 minutes (ray.stall_minutes)"
    assert told(problem) == (3, str(problem))


def test_it_is_over_when_it_has_cost_so_much() -> None:
    """4 an hour for half an hour, nothing for one, 10 an hour for a quarter."""
    limits = Limits(stall_minutes=0, max_cost=4.5)
    looks = [(0, 4.0), (15, 4.0), (30, 4.0), (90, 0.0), (100, 10.0)]
    assert [limits.look(at * MINUTE, 0, price) for at, price in looks] == [None] * 5
    assert limits.cost == pytest.approx(2 + 10 / 6)
    problem = limits.look(105 * MINUTE, 0, 10.0)
    assert isinstance(problem, UserError)
    assert str(problem).startswith("ray.max_cost: 4.5: the cluster has cost 4.50 while this run ran")
    assert told(problem)[0] == 2, "it is not tried again"


def test_a_driver_that_is_tried_again_goes_on_counting(tmp_path: Path) -> None:
    """KubeRay retries a run three times: without this it could cost four times the limit."""
    place = locate(str(tmp_path), StorageConfig())
    assert Spent(place).read() == 0
    first = Limits(0, 5, Spent(place).read())
    for at in (0, 30, 60):
        assert first.look(at * MINUTE, 0, 4.0) is None
    Spent(place).note(first.cost, 0, last=True)
    second = Limits(0, 5, Spent(place).read())
    assert second.cost == pytest.approx(4)
    assert second.look(0, 0, 4.0) is None
    assert "has cost 5.00" in str(second.look(15 * MINUTE, 0, 4.0))


def test_a_run_that_has_cost_enough_before_ends_at_the_first_look(tmp_path: Path) -> None:
    place, begun = locate(str(tmp_path), StorageConfig()), threading.Event()
    Spent(place).note(9, 0, last=True)
    looks = iter([False])

    def hang() -> None:
        begun.set()
        threading.Event().wait(5)

    def once(_seconds: float) -> bool:
        return begun.wait() and next(looks, True)

    said = r"^ray.max_cost: 5: the cluster has cost 9.00 while this run ran"
    with pytest.raises(UserError, match=said), watched(*held(max_cost=5), place, Clock(), once):
        hang()
    assert Spent(place).read() == 9


def test_what_was_spent_is_noted_every_five_minutes(tmp_path: Path) -> None:
    spent = Spent(locate(str(tmp_path), StorageConfig()))
    for now, cost in ((1000.0, 1.0), (1200.0, 2.0), (1300.0, 3.0)):
        spent.note(cost, now)
        assert spent.read() == (3.0 if cost == 3.0 else 1.0)


def test_a_record_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / SPENT).write_text("{")
    with pytest.raises(UserError, match=r"^--run: .*spent.json: no record of a cost: delete it"):
        Spent(locate(str(tmp_path), StorageConfig())).read()


def test_without_a_price_the_limit_is_refused() -> None:
    with pytest.raises(UserError, match=r"^ray.max_cost: 5.*nothing has a price: give plan.cpu_hour_price"):
        load_config([], ["policy.text=Be brief.", "ray.max_cost=5"])
    load_config([], ["policy.text=Be brief.", "ray.max_cost=5", "plan.gpu_hour_price=2"])


def test_without_limits_it_is_never_over() -> None:
    limits = Limits(0, 0)
    assert [limits.look(at * 1e6, 0, 1e6) for at in range(5)] == [None] * 5


def test_a_meter_and_a_stage_count_as_done() -> None:
    before = done()
    with working("a stage"):
        assert done() == before + 1
        with Meter("rows", 10) as meter:
            meter.advance(3)
            meter.advance(0)
    assert done() == before + 4


def held(**limits: float) -> tuple[RayConfig, PlanConfig]:
    return RayConfig(**limits), PlanConfig()  # type: ignore[arg-type]


class Clock:
    """Ten minutes pass between two looks."""

    def __init__(self) -> None:
        self.minutes = itertools.count(0, 10)

    def __call__(self) -> float:
        return next(self.minutes) * MINUTE


class Begun(threading.Event):
    """The looks come one after another once the body has begun."""

    def __call__(self, _seconds: float) -> bool:
        return not self.wait()


def test_a_body_that_hangs_is_interrupted() -> None:
    begun, limits = Begun(), held(stall_minutes=30)

    def hang() -> None:
        begun.set()
        threading.Event().wait()

    with pytest.raises(StalledError, match="nothing done for 30 minutes"), watched(*limits, None, Clock(), begun):
        hang()


def test_a_background_job_hears_the_watchdog_and_nobody_else() -> None:
    """A shell starts one with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        begun = Begun()

        def hang() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            begun.set()
            threading.Event().wait()

        with pytest.raises(StalledError), watched(*held(stall_minutes=30), None, Clock(), begun):
            hang()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_of_the_bodys_own_stays() -> None:
    with pytest.raises(KeyError), watched(*held(stall_minutes=30), None, Clock(), lambda _seconds: True):
        raise KeyError("own")


def test_a_body_without_limits_is_not_watched() -> None:
    names = [thread.name for thread in threading.enumerate()]
    with watched(*held()):
        assert [thread.name for thread in threading.enumerate()] == names


STUBBORN = """
import threading, sys
sys.path.insert(0, {root!r})
from tests.cluster.test_watchdog import Begun, Clock, held
from trace_ray.cluster import watchdog
watchdog.GRACE_S = 0.0
begun = Begun()
with watchdog.watched(*held(stall_minutes=30), None, Clock(), begun):
    while True:
        try:
            begun.set()
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
"""


def test_a_body_that_takes_no_interrupt_is_ended_with_the_line(pytestconfig: pytest.Config) -> None:
    code = STUBBORN.format(root=str(pytestconfig.rootpath))
    ended: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (
        3,
        "trace-ray: the run: nothing done for 30 minutes (ray.stall_minutes)\n",
    )
