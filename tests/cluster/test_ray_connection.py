"""What `ensure_ray` leaves behind in a process that another connected, and how it starts a Ray of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import pytest

from tests.support.cluster import RAY
from tests.support.ports import free_port


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


def ask() -> str:
    """What Ray Train hears of a living actor, asked as it asks."""
    import ray
    from ray.train.v2._internal.state.util import is_actor_alive
    from ray.util.state.exception import RayStateApiException

    try:
        alive = is_actor_alive(ray.get_runtime_context().get_actor_id(), timeout=10)
    except RayStateApiException:
        return "nobody tells"
    return "alive" if alive else "dead"


@pytest.mark.slow
def test_another_clusters_dashboard_is_not_asked_whether_a_training_lives() -> None:
    """Ray Train kills the workers of a driver that is dead, as one is of which the dashboard that it finds knows nothing."""
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    variables["RAY_TMPDIR"] = folder = tempfile.mkdtemp(prefix="tr", dir="/tmp")  # short: sockets live below it
    ports = [f"--{name}={free_port()}" for name in ("port", "dashboard-port", "dashboard-agent-listen-port")]
    started = [
        RAY,
        "start",
        "--head",
        "--disable-usage-stats",
        "--num-cpus=1",
        "--include-dashboard=true",
        "--block",
        *ports,
    ]
    code = (
        "from trace_ray.cluster.connection import ensure_ray; from trace_ray.config import RayConfig;"
        "from tests.cluster.test_ray_connection import ask;"
        "ensure_ray(RayConfig(local_cpus=1)); import ray;"
        "Asks = type('Asks', (), {'ask': lambda _: ask()}); print(ray.get(ray.remote(Asks).remote().ask.remote()))"
    )
    with subprocess.Popen(started, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        try:
            wait_for_dashboard(ports[1].split("=")[1])
            told = subprocess.run(
                [sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True
            )
        finally:
            other.terminate()
            shutil.rmtree(folder, ignore_errors=True)
    assert told.stdout.split("\n")[-2] == "nobody tells"


def wait_for_dashboard(port: str) -> None:
    given_up = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/gcs_healthz", timeout=5):
                return
        except OSError:
            assert time.monotonic() < given_up
            time.sleep(0.2)
