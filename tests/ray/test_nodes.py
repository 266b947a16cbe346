"""Which nodes count as in service, on a cluster of two: one is drained, one is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trace_ray.cluster.connection import in_service, this_node
from trace_ray.cluster.shared_paths import refuse_unseen
from trace_ray.errors import UserError


@pytest.fixture
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    ray.shutdown()
    made.shutdown()


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_path_that_another_node_does_not_see_is_refused(cluster: Any, tmp_path: Path) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    only_here = f"/proc/self/task/{os.getpid()}"  # as each process sees it: there in this one alone
    refuse_unseen({"--run": str(tmp_path), "corpus.paths": only_here})  # one node: nobody else to ask
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    refuse_unseen({"--run": str(tmp_path)})
    with pytest.raises(
        UserError, match=r"corpus\.paths: /proc/self/task/.*: another node of the cluster does not see it"
    ):
        refuse_unseen({"--run": str(tmp_path), "corpus.paths": only_here})


@pytest.mark.slow
def test_a_drained_node_and_a_lost_one_are_not_in_service(cluster: Any) -> None:
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    drained, lost = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    here = this_node()
    assert [in_service(node_id) for node_id in (here, drained.node_id, lost.node_id)] == [True] * 3
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    GcsClient(address=cluster.address).drain_node(drained.node_id, reason, "spot", 2**62)
    until(lambda: not in_service(drained.node_id))
    cluster.remove_node(lost, allow_graceful=False)
    until(lambda: not in_service(lost.node_id))
    assert in_service(here)
    assert not in_service("")


def test_where_no_ray_runs_the_node_has_no_name_and_is_in_service() -> None:
    import ray

    ray.shutdown()
    assert this_node() == ""
    assert in_service("")
    assert not in_service("a-node-of-a-cluster-that-was")
