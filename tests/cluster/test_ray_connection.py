"""What `ensure_ray` leaves behind in a process that another connected, and how it starts a Ray of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def test_every_pool_of_ray_data_waits_for_slow_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data gives up after half an hour without a finished row; evaluate and triage both use pools."""
    import ray
    from ray.data import DataContext

    from trace_ray.cluster import connection as cluster
    from trace_ray.config import RayConfig

    context = DataContext.get_current()
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 1800)
    monkeypatch.setattr(context, "raise_original_map_exception", False)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster, "_given", {})
    cluster.ensure_ray(RayConfig())
    assert context.execution_no_progress_timeout_s == -1
    assert context.raise_original_map_exception


@pytest.mark.slow
def test_local_workers_are_no_nicer_than_their_driver() -> None:
    code = (
        "import os; from trace_ray.cluster.connection import ensure_ray; from trace_ray.config import RayConfig;"
        "ensure_ray(RayConfig(local_cpus=1)); import ray;"
        "print(ray.get(ray.remote(lambda: os.nice(0)).remote()), os.nice(0))"
    )
    variables = {name: value for name, value in os.environ.items() if name != "RAY_worker_niceness"}
    told = subprocess.run([sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True)
    worker, driver = told.stdout.split()[-2:]
    assert worker == driver
