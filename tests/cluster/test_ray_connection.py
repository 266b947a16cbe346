"""What `ensure_ray` leaves behind in a process that another connected; no Ray is started."""

from __future__ import annotations

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
