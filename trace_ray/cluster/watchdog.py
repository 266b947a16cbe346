"""Ends a run that gets nothing done, or has cost enough: Ray waits for ever for a judge that hangs."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trace_ray.config import PlanConfig, RayConfig
from trace_ray.errors import StalledError, UserError
from trace_ray.runtime.interrupts import heard
from trace_ray.runtime.progress import doing, done
from trace_ray.storage.location import Location
from trace_ray.storage.object_store import transient_errors

LOOK_S = 15.0
GRACE_S = 120.0
"""For the driver to end once it was interrupted; what holds it then, holds it for ever."""
SPENT, NOTE_S = "spent.json", 300.0
"""In a run's folder: what its drivers' clusters have cost together, noted every so many seconds."""
Wait = Callable[[float], bool]
"""Waits so many seconds; returns True at once when the run is over."""


class Limits:
    """What a driver is held to; pure but for what it remembers from one look to the next.

    Args:
        stall_minutes: without a row done; max_cost: of the cluster while drivers of the run ran. 0 = no limit.
        cost: of earlier drivers.
    """

    def __init__(self, stall_minutes: float, max_cost: float, cost: float = 0.0) -> None:
        self.stall_minutes, self.max_cost, self.cost = stall_minutes, max_cost, cost
        self._done, self._since, self._looked = -1, 0.0, -1.0

    def look(self, now: float, done: int, price: float) -> Exception | None:
        """Returns what ends the run, if anything does.

        Args:
            now: seconds on a clock that only goes forward; done: a count that grows with the work.
            price: of an hour of the cluster as it is now.
        """
        if self._looked >= 0:
            self.cost += price * (now - self._looked) / 3600
        self._looked = now
        if done != self._done:
            self._done, self._since = done, now
        idle = (now - self._since) / 60
        if self.stall_minutes and idle >= self.stall_minutes:
            return StalledError(f"{doing() or 'the run'}: nothing done for {idle:.0f} minutes (ray.stall_minutes)")
        if self.max_cost and self.cost >= self.max_cost:
            remedy = (
                f"the cluster has cost {self.cost:.2f} while this run ran; raise it to go on, finished work is kept"
            )
            return UserError("ray.max_cost", f"{self.max_cost:g}", remedy)
        return None


class Spent:
    """What a run has cost so far, kept in its folder: a driver that is tried again does not begin at nothing.

    Args:
        place: the run's folder; None = kept nowhere.
    """

    def __init__(self, place: Location | None) -> None:
        self.place = place / SPENT if place is not None else None
        self._noted = 0.0

    def read(self) -> float:
        """Returns what is noted. Raises UserError where that is none of ours."""
        if self.place is None or not self.place.exists():
            return 0.0
        try:
            return float(json.loads(self.place.read_text())["cost"])
        except (ValueError, KeyError, TypeError):
            raise UserError("--run", self.place.uri, "no record of a cost: delete it to count from nothing") from None

    def note(self, cost: float, now: float, *, last: bool = False) -> None:
        """Writes it down, every ``NOTE_S`` and at the end; a store that does not answer is asked again the next time."""
        if self.place is None or not cost or (now - self._noted < NOTE_S and not last):
            return
        try:
            self.place.write_text(json.dumps({"cost": round(cost, 4)}))
            self._noted = now
        except transient_errors() as error:
            sys.stderr.write(f"trace-ray: {self.place.uri}: {error}\n")


@contextmanager
def watched(
    ray: RayConfig,
    plan: PlanConfig,
    place: Location | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Wait | None = None,
) -> Iterator[None]:
    """Holds the body to ``ray.stall_minutes`` and ``ray.max_cost``; only the main thread is.

    Args:
        plan: whose prices count; place: the run's folder, where the cost is kept from driver to driver.
        clock, wait: for tests; ``wait`` is called between two looks.
    Raises: StalledError or UserError in the body's place.
    """
    if not (ray.stall_minutes or ray.max_cost) or threading.current_thread() is not threading.main_thread():
        yield
        return
    spent = Spent(place if ray.max_cost else None)
    limits = Limits(ray.stall_minutes, ray.max_cost, spent.read())
    over, turn = threading.Event(), threading.Lock()
    found: list[Exception] = []

    def watch() -> None:
        while not (wait or over.wait)(LOOK_S):
            now = clock()
            problem = limits.look(now, done(), _price(plan) if limits.max_cost else 0.0)
            spent.note(limits.cost, now, last=problem is not None)
            if problem is not None:
                _interrupt(problem, found, over, turn)
                return

    watcher = threading.Thread(target=watch, name="watchdog", daemon=True)
    try:
        with heard(lambda: found):
            watcher.start()
            yield
            with turn:  # an interrupt that was sent arrives before this, or none is sent
                over.set()
    except BaseException as error:  # an interrupt, or what Ray makes of one
        if found and not isinstance(error, type(found[0])):
            raise found[0] from error
        raise
    finally:
        over.set()
        watcher.join()
        spent.note(limits.cost, 0.0, last=True)


def _interrupt(problem: Exception, found: list[Exception], over: threading.Event, turn: threading.Lock) -> None:
    """Interrupts the main thread until it is over; one interrupt is lost where a lock just begins to be waited for."""
    for _ in range(max(1, math.ceil(GRACE_S / LOOK_S))):
        with turn:
            if over.is_set():
                return
            found.append(problem)
            os.kill(os.getpid(), signal.SIGINT)
        if over.wait(min(LOOK_S, GRACE_S)):
            return
    _end(problem)


def _price(plan: PlanConfig) -> float:
    """Of an hour of what the cluster has now, at the plan's prices; 0 before Ray runs."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0.0
    have = ray.cluster_resources()
    return float(have.get("CPU", 0) * plan.cpu_hour_price + have.get("GPU", 0) * plan.gpu_hour_price)


def _end(problem: Exception) -> None:
    """Ends a process whose main thread an interrupt does not reach."""
    from trace_ray.runtime.endings import told

    code, said = told(problem)
    sys.stderr.write(f"trace-ray: {said}\n")
    sys.stderr.flush()
    os._exit(code)
