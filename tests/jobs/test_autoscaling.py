"""The autoscaler (v2) starts the kind of node that a selector names, and no other: Ray's fake provider, real processes.

Not by ``ray.cluster_utils.AutoscalingCluster``, which stops every Ray process of the user.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import RAY, status_of, wait_for
from tests.support.ports import free_port

pytestmark = pytest.mark.slow
HEAD = "f" * 51 + "00000"
"""The id by which Ray's fake provider knows the head."""
ASKS = """
import ray
ray.init(address="{address}", log_to_driver=False)
def where():
    return ray.get_runtime_context().get_node_id()
selector = {{"trace-ray/pool": "{pool}"}}
node = ray.get(ray.remote(num_cpus=1, label_selector=selector)(where).remote(), timeout=240)
print(sorted(one["Labels"].get("trace-ray/pool", "head") for one in ray.nodes() if one["Alive"]))
print(next(one["Labels"]["trace-ray/pool"] for one in ray.nodes() if one["NodeID"] == node))
"""


def settings(port: int) -> dict[str, object]:
    kinds: dict[str, object] = {
        pool: {
            "resources": {"CPU": 1, "object_store_memory": 10**8},
            "labels": {"trace-ray/pool": pool},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 1,
        }
        for pool in ("judge", "trainer")
    }
    kinds["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = {"type": "fake_multinode", "launch_multiple": True, "head_node_id": HEAD, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    return {
        "cluster_name": "drill",
        "max_workers": 2,
        "idle_timeout_minutes": 30,
        "provider": provider | {"gcs_address": f"127.0.0.1:{port}"},
        "auth": {"ssh_user": "nobody"},
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
    }


@pytest.fixture
def address() -> Iterator[str]:
    """Of a head without CPUs, whose autoscaler may start one node of each kind."""
    port, dashboard = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="tr", dir="/tmp"))
    (folder / "autoscaler.yaml").write_text(json.dumps(settings(port)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "disabled",
    }
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--metrics-export-port={free_port()}"]
    ports += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"]
    more = ["--num-cpus=0", "--object-store-memory=100000000", "--disable-usage-stats", "--include-dashboard=true"]
    command = [RAY, "start", "--head", "--block", *ports, *more, f"--autoscaling-config={folder / 'autoscaler.yaml'}"]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: status_of(f"http://127.0.0.1:{dashboard}/api/gcs_healthz") == 200, 90, "the head")
        yield f"127.0.0.1:{port}"
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            process.kill()
        head.wait()
        # Nodes that the provider started belong to sessions of their own below this cluster's address.
        for process in psutil.process_iter(["cmdline"]):
            if any(f"127.0.0.1:{port}" in word for word in process.info["cmdline"] or []):
                process.kill()


def test_the_node_that_a_selector_names_is_started_and_no_other(address: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_AUTH_MODE": "disabled"}
    seen = []
    for pool in ("trainer", "judge"):
        code = ASKS.format(address=address, pool=pool)
        told = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert told.returncode == 0, told.stderr[-3000:]
        seen.append(told.stdout.split("\n")[:2])
    assert seen == [["['head', 'trainer']", "trainer"], ["['head', 'judge', 'trainer']", "judge"]]
