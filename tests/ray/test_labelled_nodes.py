"""Tasks, pools and training run on the nodes that their selectors name: a real cluster of two labelled nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.config.test_labels import NODES
from trace_ray.config.selectors import selects

SELECTORS = [
    {"trace-ray/pool": "judge"},
    {"trace-ray/pool": "!judge"},
    {"trace-ray/pool": "in(judge,trainer)", "market": "spot"},
]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, dict[str, str]]]:
    """Node id -> labels, of a head without CPUs and a node for each of ``NODES`` that has labels."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for labels in NODES[1:]:
            cluster.add_node(num_cpus=1, labels=labels)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        yield {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    finally:
        ray.shutdown()
        cluster.shutdown()


def locator() -> Callable[[], str]:
    """Returns a function that tells where it runs; made here, so that Ray sends it whole: workers cannot import a test."""

    def where() -> str:
        import ray

        return ray.get_runtime_context().get_node_id()  # type: ignore[no-any-return]

    return where


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_a_task_runs_where_its_selector_says(nodes: dict[str, dict[str, str]], selector: dict[str, str]) -> None:
    import ray

    task = ray.remote(num_cpus=1, label_selector=selector)(locator())
    for node in ray.get([task.remote() for _ in range(4)], timeout=120):
        assert selects(selector, nodes[node])


def test_a_pool_of_actors_stays_on_its_nodes(nodes: dict[str, dict[str, str]]) -> None:
    import ray.data

    where = locator()

    class Actor:
        def __call__(self, row: dict[str, int]) -> dict[str, str]:
            return {"node": where()}

    rows = ray.data.range(8, override_num_blocks=8).map(
        Actor,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=1),
        num_cpus=1,
        label_selector={"trace-ray/pool": "judge"},
    )
    assert {nodes[row["node"]]["trace-ray/pool"] for row in rows.iter_rows()} == {"judge"}
