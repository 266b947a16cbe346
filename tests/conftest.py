"""Fixtures that several areas' tests share, and what every test's processes are started with."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.support.s3 import s3, s3_server
from trace_ray.model import kept

__all__ = ["s3", "s3_server"]

# As many threads as cores in each of two test processes: each spins while it waits for one that the other's keep off its
# core, and tests of 6 s took 230 s. torch reads both when it is loaded, here and in all that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Ray starts its workers at niceness 15: beside anything else that computes they get a thirtieth of a core, and a test of a
# minute lasts an hour. At 0 they share the machine as all processes do.
os.environ.setdefault("RAY_worker_niceness", "0")

if offset := int(os.environ.get("TRACE_RAY_VARY", "0")):
    from tests.support.varied import vary

    vary(offset)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a new worker process does: no model, budget or count of an earlier test is found in it."""
    monkeypatch.setattr(kept, "_KEPT", {})
    monkeypatch.setattr(kept, "_LOADS", Counter())
