"""Fixtures that several areas' tests share, and what every test's processes are started with."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.support.s3 import s3, s3_server
from trace_ray.model import kept

__all__ = ["s3", "s3_server"]

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
    monkeypatch.setattr(kept, "_MADE", Counter())
