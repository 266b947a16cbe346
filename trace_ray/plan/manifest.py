"""Reads the worker groups of a manifest of KubeRay's, or of a file for `ray up`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from trace_ray.cluster.capacity import NodeGroup
from trace_ray.errors import UserError

_SETTING = "plan.manifest"
T = TypeVar("T")


def read_groups(path: str) -> list[NodeGroup]:
    """Returns the worker groups of a manifest or launcher file, for ``shortages``.

    Raises: UserError where the file describes no cluster, or leaves a group's size open.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise UserError(_SETTING, path, "not a text: name a yaml file, see clusters/") from None
    except (OSError, yaml.YAMLError) as error:
        raise UserError(_SETTING, path, " ".join(str(error).split())[:200]) from None
    for document in documents:
        if isinstance(document, dict) and (
            "available_node_types" in document or document.get("kind") in ("RayCluster", "RayJob")
        ):
            try:
                groups = groups_of(document)
            except (KeyError, TypeError, ValueError) as error:
                remedy = (
                    "each worker group must say num-cpus (rayStartParams; for ray up: resources) and its most nodes"
                )
                raise UserError(_SETTING, path, f"{type(error).__name__} {error}: {remedy}") from None
            if groups:
                return groups
    raise UserError(_SETTING, path, "no RayCluster, RayJob or launcher file with worker groups in it; see clusters/")


def groups_of(manifest: dict[str, Any]) -> list[NodeGroup]:
    """Returns the worker groups of a RayCluster or RayJob manifest, or of an AWS cluster launcher file.

    Raises: KeyError, TypeError or ValueError where a part of it is missing, of another kind, or no number.
    """
    if "available_node_types" in manifest:
        kinds = _of_kind(dict, manifest, "available_node_types")
        return [_launched(name, _of_kind(dict, kinds, name)) for name in kinds if name != manifest["head_node_type"]]
    spec = _of_kind(dict, manifest, "spec")
    if "rayClusterSpec" in spec:
        spec = _of_kind(dict, spec, "rayClusterSpec")
    return [_worker_group(group) for group in _of_kind(list, spec, "workerGroupSpecs")]


def _launched(name: str, kind: Mapping[str, Any]) -> NodeGroup:
    resources = _of_kind(dict, kind, "resources")
    cpus, gpus = (float(resources.get(unit, 0)) for unit in ("CPU", "GPU"))
    return NodeGroup(name=name, cpus=cpus, gpus=gpus, most=int(kind.get("max_workers", 0)), labels=_labels(kind))


def _worker_group(group: Mapping[str, Any]) -> NodeGroup:
    started = _of_kind(dict, group, "rayStartParams")
    return NodeGroup(
        name=group["groupName"],
        cpus=float(started["num-cpus"]),
        gpus=float(started.get("num-gpus", 0)),
        most=int(group["maxReplicas"]) * int(group.get("numOfHosts", 1)),
        labels=_labels(group),
    )


def _labels(part: Mapping[str, Any]) -> dict[str, str]:
    given = _of_kind(dict, part, "labels") if "labels" in part else {}
    return {str(key): str(value) for key, value in given.items()}


def _of_kind(kind: type[T], parent: Mapping[str, Any], name: str) -> T:
    """The part of this name, where it is what Ray expects there."""
    part = parent[name]
    if not isinstance(part, kind):
        expected = "a list" if kind is list else "a mapping"
        raise TypeError(f"{name} is {'empty' if part is None else f'a {type(part).__name__}'}, not {expected}")
    return part
