"""A driver that trains a hand-made run on a local Ray cluster; killed, or given a node to lose, by the tests.

python realign_driver.py RUN CONFIG [--nodes N] [--drain-after STEP]
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.runs.artifacts import Run
from trace_ray.runtime import environment
from trace_ray.storage.location import locate

NOTICE_SECONDS = 6


def main() -> None:
    """Runs stage 3; prints what happened as one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("config")
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--drain-after", type=int, default=0)
    arguments = parser.parse_args()
    environment.prepare()
    run = Run(locate(arguments.run, StorageConfig()))
    told: dict[str, Any] = {}
    if arguments.nodes:
        cluster, doomed = start_cluster(arguments.nodes)
        threading.Thread(
            target=lambda: told.update(drain(cluster, doomed, run, arguments.drain_after)), daemon=True
        ).start()
    from trace_ray.realign.stage import run_realign

    run_realign(run, load_config([arguments.config]))
    print(json.dumps(told))


def start_cluster(nodes: int) -> tuple[Any, Any]:
    """A cluster of nodes with one core each and this process joined to it; returns it and its last node."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    added = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        runtime_env={"env_vars": environment.child_environment()},
    )
    cluster.wait_for_nodes()
    return cluster, added[-1]


def drain(cluster: Any, node: Any, run: Run, after: int) -> dict[str, Any]:
    """Announces a node's end as a spot market does, and takes it away when the time is up."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    metrics = Path(run.realign.place.path) / "metrics.jsonl"
    while last_step(metrics) < after:
        time.sleep(0.2)
    deadline = time.time() + NOTICE_SECONDS
    accepted, _ = GcsClient(cluster.address).drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "spot drill",
        int(deadline * 1000),
    )
    noticed = last_step(metrics)
    while time.time() < deadline:
        time.sleep(0.2)
    cluster.remove_node(node, allow_graceful=False)
    return {"accepted": accepted, "noticed_at": noticed, "removed_at": last_step(metrics)}


def last_step(metrics: Path) -> int:
    """The last step that the workers have written."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


if __name__ == "__main__":
    main()
