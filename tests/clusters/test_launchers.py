"""What is asked of Ray from outside Kubernetes, and by a pod's hook: options that it has."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import yaml

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


def test_rays_launcher_accepts_the_aws_file() -> None:
    import ray.autoscaler
    from jsonschema import Draft7Validator
    from ray.scripts.scripts import start

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((CLUSTERS / "aws.yaml").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(config)] == []
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert sum(kind["max_workers"] for kind in workers) == config["max_workers"]
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    for line in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        ray_, verb, *words = shlex.split(line)
        assert ray_ == "ray"
        if verb == "start":
            assert start.make_context("start", words).params["metrics_export_port"] == 8080
