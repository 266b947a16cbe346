"""A pool of actors: a start that fails for now is tried again, a mistake is not, a GPU that nobody asked for is hidden."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trace_ray.cluster import connection
from trace_ray.cluster.connection import ensure_ray, pooled
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
    monkeypatch.setattr(connection, "_STARTS", 1)
    with pytest.raises(Exception, match="Free memory") as caught:
        run(tmp_path, kind, failures=99)
    assert str(user_error_in(caught.value)) == "triage.judge.model: m: Free memory on device"
    assert len((tmp_path / "starts").read_text()) == starts
