"""Tasks, pools and training run on the nodes that their selectors name: a real cluster of two labelled nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.config.test_labels import NODES
from trace_ray.cluster.actor_pool import ActorPool
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


def test_scoring_deals_its_work_to_actors_that_have_a_node(nodes: dict[str, dict[str, str]]) -> None:
    """Two nodes have CPUs and one the label: more streams than that would wait for ever."""
    import ray

    where = locator()

    def parts(number: int) -> Iterator[str]:
        yield from [where()] * number

    with ActorPool(1, label_selector={"trace-ray/pool": "judge"}) as pool:
        assert (pool.slots(), pool.settle(5)) == (1, 1)
        (stream,) = pool.streams(parts, [(3,)])
        found = [ray.get(part, timeout=60) for part in stream]
        assert [nodes[node]["trace-ray/pool"] for node in found] == ["judge"] * 3
        assert {
            nodes[node]["trace-ray/pool"] for _, node in pool.each(lambda _: where(), [(i, (i,)) for i in range(4)])
        } == {"judge"}


def test_an_actor_that_finds_its_node_taken_is_let_go(nodes: dict[str, dict[str, str]]) -> None:
    """By others, which no count of the nodes tells."""
    import ray

    class Other:
        def up(self) -> bool:
            return True

    other = ray.remote(num_cpus=1)(Other).remote()
    assert ray.get(other.up.remote(), timeout=60)
    try:
        with ActorPool(1) as pool:
            assert pool.slots() == len(NODES[1:])
            assert pool.settle(5) == len(NODES[1:]) - 1
            assert [value for value, *_ in (pool.gathered(lambda n: (n,), [(7,)] * (len(NODES[1:]) - 1)))] == [7] * (
                len(NODES[1:]) - 1
            )
    finally:
        ray.kill(other)


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
