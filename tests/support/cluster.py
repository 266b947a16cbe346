"""A Ray cluster of real `ray start` processes on loopback: its own ports and folder, ended by its own process ids only."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.ports import free_port
from trace_ray.cluster.connection import WORKER_NICENESS

RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "planted-ray-token-" + "5d" * 16


class TokenCluster:
    """A head that runs no task, and nodes that join; every request needs the token.

    Args:
        environment: what the nodes' processes get besides, such as S3 credentials.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tr", dir="/tmp"))  # short: sockets live below it
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | environment
        bin_folder = str(Path(sys.executable).parent)  # a job's `python` is this one, whether its venv is active or not
        self.environment["PATH"] = os.pathsep.join([bin_folder, self.environment.get("PATH", "")])
        self.environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_ENABLE_RECORD_ACTOR_TASK_LOGGING": "0",
            "RAY_metrics_report_interval_ms": "1000",  # a process that lives for seconds is seen too
            WORKER_NICENESS: "0",  # at Ray's 15 a stage beside anything that computes stands still until it times out
        }
        self.gcs_port, self.dashboard_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.dashboard_port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.agent_ports: list[int] = []
        self.metrics_ports: list[int] = []
        self.scraped: set[str] = set()
        self.over = threading.Event()
        self.scraper = threading.Thread(target=self._scrape, daemon=True)

    def __enter__(self) -> Self:
        head = [
            "--head",
            f"--port={self.gcs_port}",
            f"--dashboard-port={self.dashboard_port}",
            "--include-dashboard=true",
        ]
        self._start([*head, "--num-cpus=0", f"--temp-dir={self.folder}"])
        wait_for(lambda: self.get("/api/gcs_healthz") == 200, 60, "the head")
        self.scraper.start()
        return self

    def add_node(self, cpus: int, labels: str = "") -> subprocess.Popen[bytes]:
        """Starts a node and waits until it has joined.

        Args:
            labels: of the node, as `ray start` takes them: a=b,c=d.
        """
        known = len(self.agent_ports)
        # A folder of its own, as on a machine of its own: else each node unpacks a job's files over the driver's.
        own = self.folder / str(len(self.nodes))
        joins = [f"--address=127.0.0.1:{self.gcs_port}", f"--num-cpus={cpus}", f"--temp-dir={own}"]
        node = self._start(joins, labels)
        port = self.agent_ports[known]
        wait_for(lambda: status_of(f"http://127.0.0.1:{port}/api/local_raylet_healthz") == 200, 600, "the node")
        return node

    def _start(self, arguments: list[str], labels: str = "") -> subprocess.Popen[bytes]:
        agent, metrics = free_port(), free_port()
        ports = [
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
            f"--labels={','.join(filter(None, [f'drill={len(self.nodes)}', labels]))}",
        ]
        log = (self.folder / f"node{len(self.nodes)}.log").open("wb")
        command = [
            RAY,
            "start",
            "--block",
            "--disable-usage-stats",
            "--object-store-memory=300000000",
            *ports,
            *arguments,
        ]
        node = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.nodes.append(node)
        self.agent_ports.append(agent)
        self.metrics_ports.append(metrics)
        return node

    def get(self, path: str, token: str | None = None) -> int:
        return status_of(self.url + path, token)

    def ray(self, *arguments: str, token: str = TOKEN, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs `ray ...` as a user elsewhere would: with the address and a token, nothing else."""
        asked = self.environment | {"RAY_ADDRESS": self.url, "RAY_AUTH_TOKEN": token}
        return subprocess.run(
            [RAY, *arguments], env=asked, capture_output=True, text=True, timeout=timeout, check=False
        )

    def processes(self, *words: str, node: subprocess.Popen[bytes] | None = None) -> list[psutil.Process]:
        """Returns the processes of this cluster, or of one node, whose command line holds all the words."""
        found = []
        for process in self._all() if node is None else _below(node):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def _scrape(self) -> None:
        """Reads every node's metrics as Prometheus would: a worker's series go when it ends."""
        while not self.over.wait(2.0):
            for port in list(self.metrics_ports):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                        page = answer.read().decode()
                except (OSError, http.client.HTTPException):  # a node that is gone, or goes while it answers
                    continue
                ours = {line for line in page.splitlines() if line.startswith("ray_trace_ray_")}
                self.scraped = self.scraped | ours  # a new set: tests read the old one meanwhile

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """Ends a node as a spot instance ends: everything at once."""
        for process in _below(node):
            _kill(process)
        node.wait()

    def worker(self, word: str) -> psutil.Process:
        """Returns a process with this word in its title; tasks come and go, so it may have to be waited for."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found.extend(self.processes("ray::", word))
            return bool(found)

        wait_for(look, 60, f"a process with {word}")
        return found[0]

    def node_of(self, word: str) -> subprocess.Popen[bytes]:
        """Returns the `ray start` process of the node on which such a process works."""
        found: list[subprocess.Popen[bytes]] = []

        def look() -> bool:
            found.extend(node for node in self.nodes if self.processes("ray::", word, node=node))
            return bool(found)

        wait_for(look, 60, f"a node with {word}")
        return found[0]

    def drain(self, node: subprocess.Popen[bytes], seconds: int) -> subprocess.CompletedProcess[str]:
        """Tells Ray that a node goes, as a worker pod's preStop hook does."""
        known = self.listed("nodes")
        name = str(self.nodes.index(node))
        identity = next(known_node["node_id"] for known_node in known if known_node["labels"].get("drill") == name)
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "drill"]
        address = f"--address=127.0.0.1:{self.gcs_port}"
        return self.ray(
            "drain-node", address, "--node-id", identity, *reason, f"--deadline-remaining-seconds={seconds}"
        )

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """Returns what `ray list` tells of nodes, actors or tasks, the dead ones too."""
        told = self.ray("list", kind, "--format=json", "--detail", "--limit=10000")
        return json.loads(told.stdout[told.stdout.index("[") :])  # type: ignore[no-any-return]

    def _all(self) -> list[psutil.Process]:
        return [process for node in self.nodes for process in _below(node)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        for process in self._all():
            _kill(process)
        for node in self.nodes:
            node.wait()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _below(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Returns a node's processes, none where it has ended."""
    if node.poll() is not None:
        return []
    top = psutil.Process(node.pid)
    return [top, *top.children(recursive=True)]


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def status_of(url: str, token: str | None = None) -> int:
    """Returns the HTTP status of a GET, 0 where nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return 0


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not there after {seconds:.0f} s")
        time.sleep(0.2)
