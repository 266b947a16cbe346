"""The steps for kind, as the README gives them: cluster, image, operator, secrets, run. For a machine with Docker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.documents import CLUSTERS, ROOT
from tests.support.documents import commands

pytestmark = [pytest.mark.docker, pytest.mark.timeout(5400)]
MADE = "kind create cluster"
FOLLOWS = ("--watch", "logs -f")
"""These wait for a reader; the test asks for the end instead."""


def steps() -> list[str]:
    """The section's commands, in order, from the cluster's making to its deletion."""
    found = [command.text for command in commands(CLUSTERS / "README.md")]
    first = next(i for i, text in enumerate(found) if text.startswith(MADE))
    last = next(i for i, text in enumerate(found) if text.startswith("kind delete cluster"))
    return found[first : last + 1]


def shell(text: str, seconds: float = 3600) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    told = subprocess.run(
        ["bash", "-c", text],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert told.returncode == 0, f"{text}\n{told.stdout[-2000:]}\n{told.stderr[-2000:]}"
    return told.stdout


@pytest.fixture
def cluster() -> Iterator[None]:
    *begin, end = steps()
    try:
        for text in begin:
            if not any(word in text for word in FOLLOWS):
                shell(text)
        yield
    finally:
        shell(end)


def test_the_demo_runs_on_a_kubernetes_cluster(cluster: None) -> None:
    job = "rayjob/trace-ray-cpu-run"
    shell(f"kubectl -n trace-ray wait {job} --for=jsonpath='{{.status.jobDeploymentStatus}}'=Complete --timeout=45m")
    assert shell(f"kubectl -n trace-ray get {job} -o jsonpath='{{.status.jobStatus}}'") == "SUCCEEDED"
    log = shell("kubectl -n trace-ray logs job/trace-ray-cpu-run")
    assert "report: s3://trace-ray/runs/demo/report.html" in log
