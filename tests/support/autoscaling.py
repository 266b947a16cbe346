"""A Ray cluster that autoscales (v2) on this machine alone: nodes are processes that Ray's own fake provider starts.

As ``ray.cluster_utils.AutoscalingCluster``, which cannot be used beside others' clusters: it begins and ends with
`ray stop --force`, of every Ray process of the machine, listens on fixed ports, and reads a file that no wheel has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.support.cluster import RAY
from tests.support.ports import free_port

_HEAD = "ray.head.default"


class AutoscalingCluster:
    """A head without CPUs, and groups of workers that come and go.

    Args:
        groups: {name: {resources, labels, max_workers}}.
        idle_minutes: after which a node without work goes.
    """

    def __init__(self, groups: dict[str, dict[str, Any]], idle_minutes: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="as", dir="/tmp"))  # short: sockets live below it
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        types = {name: {"node_config": {}, "min_workers": 0, **group} for name, group in groups.items()}
        self.config = {
            "cluster_name": "fake_multinode",
            "max_workers": sum(group["max_workers"] for group in groups.values()),
            "idle_timeout_minutes": idle_minutes,
            "upscaling_speed": 1.0,
            "provider": {
                "type": "external",  # as which it needs no file of defaults
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": self.address,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
            },
            "available_node_types": {_HEAD: head, **types},
            "head_node_type": _HEAD,
            "auth": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment["RAY_AUTH_MODE"] = "disabled"  # else a token that a user has is asked for

    def __enter__(self) -> Self:
        (self.folder / "config.yaml").write_text(json.dumps(self.config))
        started = self.environment | {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_worker_niceness": "0",
        }
        ports = [f"--port={self.port}", f"--dashboard-agent-listen-port={free_port()}", "--include-dashboard=false"]
        command = [RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=0", *ports]
        command += [f"--autoscaling-config={self.folder / 'config.yaml'}", f"--temp-dir={self.folder}"]
        with (self.folder / "head.log").open("wb") as log:
            self.head = subprocess.Popen(
                [*command, "--object-store-memory=200000000"], env=started, stdout=log, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the processes of this cluster alone: those that name its folder or its port."""
        if kind is not None:
            print((self.folder / "head.log").read_text()[-3000:])
        for process in self._all():
            try:
                process.kill()
            except psutil.Error:  # gone by itself
                continue
        self.head.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[psutil.Process]:
        found = [self.head_process, *self.head_process.children(recursive=True)]
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if str(self.folder) in line or self.address in line:
                found += [process, *process.children(recursive=True)]
        return list(dict.fromkeys(found))

    @property
    def head_process(self) -> psutil.Process:
        return psutil.Process(self.head.pid)
