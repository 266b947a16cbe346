"""A pod's hook: what it asks of Ray are options that it has, and it does not wait for ever."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.clusters.documents import CLUSTERS


def hook(folder: Path, ray: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the hook as a pod runs it, but for `ray`."""
    (folder / "ray").write_text(f"#!/bin/bash\n{ray}\n")
    (folder / "ray").chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run([CLUSTERS / "drain.sh", *arguments], env=path, timeout=20, check=False)


def test_the_hook_asks_for_a_drain_that_ray_knows(tmp_path: Path) -> None:
    from ray.scripts.scripts import drain_node

    asked = tmp_path / "asked"
    told = hook(tmp_path, f'printf "%s\\n" "$@" > {asked}\nexit 1', "90")
    assert told.returncode == 0, "a node that cannot be drained still ends at once"
    command, *words = asked.read_text().splitlines()
    assert command == drain_node.name
    given = drain_node.make_context(command, words).params
    assert (given["reason"], given["deadline_remaining_seconds"]) == ("DRAIN_NODE_REASON_PREEMPTION", 90)


def test_a_head_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """Ray's client would wait for minutes, and the pod be killed in the middle."""
    assert hook(tmp_path, "exec sleep 600", "90", "0.2").returncode == 0
