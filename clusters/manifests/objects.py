"""What every object has, and how objects are written down."""

from __future__ import annotations

from typing import Any

import yaml

NAMESPACE = "trace-ray"
"""Of the base; an overlay's ``namespace`` puts everything elsewhere."""
OURS = {"app.kubernetes.io/part-of": "trace-ray"}
"""The label of every pod and object. Not app.kubernetes.io/name: KubeRay's service for a RayJob selects pods by its own."""

Yaml = dict[str, Any]


def an_object(version: str, kind: str, name: str, **rest: Any) -> Yaml:
    """Returns an object in our namespace."""
    return {"apiVersion": version, "kind": kind, "metadata": metadata(name), **rest}


def metadata(name: str) -> Yaml:
    """Returns name, namespace and label."""
    return {"name": name, "namespace": NAMESPACE, "labels": dict(OURS)}


# Writes every list and mapping out: anchors between groups would be hard to edit.
_DUMPER: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda _self, _data: True})


def render(documents: list[Yaml]) -> str:
    """Returns the documents as yaml, keys in the order in which they were made."""
    body = yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=False, width=118)
    return f"# Made by clusters/build.py; change that and run it.\n{body}"
