"""Writes clusters/base/, what Kustomize's overlays stand on: common objects, two clusters and two jobs; and grafana.json.

python -m clusters.build           # from the project's root, after a change in clusters/manifests; tests compare
"""

from __future__ import annotations

import json
from pathlib import Path

from clusters.manifests.common import common
from clusters.manifests.dashboard import dashboard
from clusters.manifests.groups import CPU_GROUPS, GPU_GROUPS
from clusters.manifests.merge_keys import merge_keys
from clusters.manifests.monitoring import pod_monitors
from clusters.manifests.network import network_policy
from clusters.manifests.objects import Yaml, render
from clusters.manifests.ray_objects import ray_cluster, ray_job

KUSTOMIZATION: Yaml = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
MERGE_KEYS, DASHBOARD = "merge-keys.json", "grafana.json"


def folders() -> dict[str, list[Yaml]]:
    """Returns {folder of the base: its objects}; each folder is a kustomization of its own, for overlays to name."""
    return {
        "common": [*common(), network_policy()],
        "monitoring": pod_monitors(),
        "cpu-cluster": [ray_cluster("trace-ray-cpu", CPU_GROUPS)],
        "cpu-job": [ray_job("trace-ray-cpu-run", CPU_GROUPS)],
        "gpu-cluster": [ray_cluster("trace-ray-gpu", GPU_GROUPS)],
        "gpu-job": [ray_job("trace-ray-gpu-run", GPU_GROUPS)],
    }


def files() -> dict[str, str]:
    """Returns {path below the base: text}."""
    made = {f"common/{MERGE_KEYS}": json.dumps(merge_keys(), indent=1) + "\n"}
    for folder, objects in folders().items():
        made[f"{folder}/{folder}.yaml"] = render(objects)
        kustomization = KUSTOMIZATION | {"resources": [f"{folder}.yaml"]}
        if folder == "common":  # every overlay has it, and Kustomize reads the first that it meets for all
            kustomization |= {"openapi": {"path": MERGE_KEYS}}
        made[f"{folder}/kustomization.yaml"] = render([kustomization])
    return made


def main() -> None:
    base = Path(__file__).with_name("base")
    for name, text in files().items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text, encoding="utf-8")
    (base.parent / DASHBOARD).write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
