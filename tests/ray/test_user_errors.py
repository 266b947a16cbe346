"""A user's mistake that a worker meets is one line at the driver, however Ray wraps it."""

from __future__ import annotations

from typing import Any

import pytest

from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import RayConfig
from trace_ray.errors import UserError
from trace_ray.pipeline import user_error_in


def workers() -> dict[str, type]:
    """Classes of this function, so that they travel to the workers by value."""

    class Calls:
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            raise UserError("triage.judge.model", row["block"], "meets it at work")

    class Starts:
        def __init__(self) -> None:
            raise UserError("triage.judge.model", 0, "meets it at the start")

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return row

    return {"at work": Calls, "at the start": Starts}


@pytest.mark.parametrize("text", ["at work", "at the start"])
def test_a_pools_mistake_is_one_line(text: str) -> None:
    import ray.data

    ensure_ray(RayConfig(local_cpus=2))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=1)
    rows = ray.data.from_items([{"block": 0}]).map(workers()[text], compute=pool, num_cpus=0.5)
    with pytest.raises(Exception, match=text) as caught:
        list(rows.iter_rows())
    mistake = user_error_in(caught.value)
    assert str(mistake) == f"triage.judge.model: 0: meets it {text}"
