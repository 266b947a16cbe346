"""An autoscaler (v2) with two labelled kinds of nodes: a stage's pool has its nodes at once, and they go when it is over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.autoscaling import AutoscalingCluster
from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.data_pool import pooled
from trace_ray.config import JudgeConfig, RayConfig

pytestmark = pytest.mark.slow

MOST = 3
GROUPS = {
    "judge": {"resources": {"CPU": 1}, "labels": {"trace-ray/pool": "judge"}, "max_workers": MOST},
    "trainer": {"resources": {"CPU": 1}, "labels": {"trace-ray/pool": "trainer"}, "max_workers": MOST},
}


def works() -> type:
    """Stands for a judge: says where it ran. Made here, so that it travels by value: no node can import this file."""

    class Works:
        def read(self, item: dict[str, Any]) -> float:
            return float(item["seconds"])

        def work(self, _item: dict[str, Any], seconds: float) -> dict[str, Any]:
            import ray

            time.sleep(seconds)
            return {"node": ray.get_runtime_context().get_node_id()}

    return Works


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[AutoscalingCluster]:
    import ray

    ray.shutdown()  # another test's
    for name in ("RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with AutoscalingCluster(GROUPS, idle_minutes=0.1) as started:
        wait(lambda: connected(started), 90, "the head")
        yield started
        ray.shutdown()


def connected(cluster: AutoscalingCluster) -> bool:
    try:
        ensure_ray(RayConfig(address=cluster.address))
    except (ConnectionError, TimeoutError):
        return False
    return True


def wait(happened: Callable[[], bool], seconds: float, what: str) -> float:
    started = time.monotonic()
    while not happened():
        assert time.monotonic() < started + seconds, f"no sign of {what} after {seconds} s"
        time.sleep(0.5)
    return time.monotonic() - started


def nodes() -> Counter[str]:
    """Live nodes by the label of their pool."""
    import ray

    labels = [node["Labels"].get("trace-ray/pool", "head") for node in ray.nodes() if node["Alive"]]
    return Counter(label for label in labels if label != "head")


def test_a_pool_has_its_nodes_within_two_minutes_and_they_go_after_it(cluster: AutoscalingCluster) -> None:
    assert nodes() == {}
    pool = JudgeConfig(actors=1, max_actors=MOST, num_cpus=1, label_selector={"trace-ray/pool": "judge"})
    started, grown, used = time.monotonic(), 0.0, set()
    for row in pooled(works(), (), [{"seconds": 2.0}] * 80, pool, ahead=True):
        used.add(row["node"])
        if not grown and nodes()["judge"] == MOST:
            grown = time.monotonic() - started
    assert 0 < grown < 120
    assert len(used) == MOST, "each node had a judge"
    assert nodes()["trainer"] == 0
    shrunk = wait(lambda: nodes()["judge"] == 0, 120, "an empty cluster")
    print(f"all {MOST} judge nodes after {grown:.0f} s, none {shrunk:.0f} s after the end")


def test_they_go_after_an_error_too(cluster: AutoscalingCluster) -> None:
    pool = JudgeConfig(actors=1, max_actors=MOST, num_cpus=1, label_selector={"trace-ray/pool": "trainer"})
    rows = pooled(works(), (), [{"seconds": 1.0}] * 80, pool, ahead=True)
    next(iter(rows))
    wait(lambda: nodes()["trainer"] == MOST, 600, "the nodes")
    rows.close()  # as where its user raises
    wait(lambda: nodes()["trainer"] == 0, 600, "an empty cluster")
