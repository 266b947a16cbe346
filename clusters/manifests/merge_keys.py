"""By what key Kustomize finds an item of a list: without it a patch of one worker group would replace them all.

Kustomize knows that for Kubernetes' own kinds and reads it for others from a file (`openapi`), in place of its own.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def merge_keys() -> Schema:
    """Returns the definitions of RayCluster and RayJob, and of the kinds of ours whose lists overlays patch."""
    return {
        "definitions": {
            "container": _fields(
                env=_list(_fields(), "name"),
                ports=_list(_fields(), "containerPort"),
                volumeMounts=_list(_fields(), "mountPath"),
            ),
            "pod": _fields(
                spec=_fields(
                    containers=_list({"$ref": "#/definitions/container"}, "name"),
                    initContainers=_list({"$ref": "#/definitions/container"}, "name"),
                    volumes=_list(_fields(), "name"),
                    imagePullSecrets=_list(_fields(), "name"),
                )
            ),
            "cluster": _fields(
                autoscalerOptions={"$ref": "#/definitions/container"},
                headGroupSpec=_fields(template={"$ref": "#/definitions/pod"}),
                workerGroupSpecs=_list(_fields(template={"$ref": "#/definitions/pod"}), "groupName"),
            ),
            "RayCluster": _kind("RayCluster", {"$ref": "#/definitions/cluster"}),
            "RayJob": _kind(
                "RayJob",
                _fields(
                    rayClusterSpec={"$ref": "#/definitions/cluster"},
                    submitterPodTemplate={"$ref": "#/definitions/pod"},
                ),
            ),
        }
    }


def _fields(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties} if properties else {"type": "object"}


def _list(items: Schema, key: str) -> Schema:
    merged = {"x-kubernetes-patch-merge-key": key, "x-kubernetes-patch-strategy": "merge"}
    return {"type": "array", "items": items, **merged}


def _kind(name: str, spec: Schema) -> Schema:
    which = {"group": "ray.io", "version": "v1", "kind": name}
    return _fields(spec=spec) | {"x-kubernetes-group-version-kind": [which]}
