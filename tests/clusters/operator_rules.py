"""What KubeRay's operator refuses beyond its CRD: the rules of its validation.go, v1.4.2 to v1.7.0, told in our words.

The operator says the first that it finds and creates nothing; here all are found. A rule of any of these versions counts.
Its words are kept where users search for them. Not here: what it checks of RayService, RayCronJob, the network policies
that it would write itself, and the history server's collector: none of ours has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.clusters.operator_cluster import cluster_refusals, restarts
from tests.clusters.operator_deletion import INVALID, deletion_refusals

Yaml = dict[str, Any]
CLUSTER_NAME, JOB_NAME = 53, 47
"""Characters; what the operator appends must still fit a label."""


def refusals(document: Yaml, gates: frozenset[str] = frozenset()) -> list[str]:
    """Returns what the operator says against a RayCluster or a RayJob.

    Args:
        gates: feature gates that the operator was started with; by default none of those that matter here is on.
    """
    metadata, spec = document["metadata"], document.get("spec") or {}
    notes = metadata.get("annotations") or {}
    if document["kind"] == "RayCluster":
        return [*_name("RayCluster", metadata["name"], CLUSTER_NAME), *cluster_refusals(spec, notes, gates)]
    named = [f"The RayJob metadata is invalid: {reason}" for reason in _name("RayJob", metadata["name"], JOB_NAME)]
    return [*named, *job_refusals(spec, notes, gates)]


def _name(kind: str, name: str, most: int) -> Iterator[str]:
    if len(name) > most:
        yield f"{kind} name should be no more than {most} characters"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"{kind} name should be a valid DNS1035 label"


def job_refusals(spec: Yaml, notes: Mapping[str, str], gates: frozenset[str]) -> Iterator[str]:
    """Yields what is wrong with a RayJob's spec."""
    suspended, stops = bool(spec.get("suspend")), bool(spec.get("shutdownAfterJobFinishes"))
    retries, cluster = spec.get("backoffLimit") or 0, spec.get("rayClusterSpec")
    rules = [
        (suspended and not stops, "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"),
        (spec.get("ttlSecondsAfterFinished", 0) < 0, "TTLSecondsAfterFinished must be a non-negative integer"),
        (suspended and "clusterSelector" in spec, "the ClusterSelector mode doesn't support the suspend operation"),
        (
            cluster is None and not spec.get("clusterSelector"),
            "one of RayClusterSpec or ClusterSelector must be set",
        ),
        (bool(retries and spec.get("clusterSelector")), "BackoffLimit is incompatible with ClusterSelector mode"),
        (
            bool(retries and spec.get("submissionMode") == "InteractiveMode"),
            "BackoffLimit is incompatible with InteractiveMode",
        ),
        (spec.get("activeDeadlineSeconds", 1) <= 0, "activeDeadlineSeconds must be a positive integer"),
        (spec.get("preRunningDeadlineSeconds", 1) <= 0, "preRunningDeadlineSeconds must be a positive integer"),
        (retries < 0, "backoffLimit must be a positive integer"),
    ]
    yield from (INVALID + said for wrong, said in rules if wrong)
    yield from deletion_refusals(spec, gate="RayJobDeletionPolicy" in gates)
    yield from _modes(spec)
    if cluster is not None:
        yield from _own_cluster(cluster)
        yield from (INVALID + reason for reason in cluster_refusals(cluster, notes, gates))
    if not _is_mapping(spec.get("runtimeEnvYAML") or "{}"):
        yield "failed to unmarshal RuntimeEnvYAML"


def _modes(spec: Yaml) -> Iterator[str]:
    beside, selector = spec.get("submissionMode") == "SidecarMode", spec.get("clusterSelector")
    if selector and not selector.get("ray.io/cluster"):
        yield "cluster name in ClusterSelector should not be empty"
    if beside and selector:
        yield "ClusterSelector is not supported in SidecarMode"
    for field in ("submitterPodTemplate", "submitterConfig"):
        if beside and spec.get(field) is not None:
            yield f"Currently, SidecarMode doesn't support {field[0].upper()}{field[1:]}"
    if beside and spec.get("rayClusterSpec") and restarts(spec["rayClusterSpec"]["headGroupSpec"]):
        yield "restartPolicy for head Pod should be Never or unset when using SidecarMode"


def _own_cluster(cluster: Yaml) -> Iterator[str]:
    if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
        yield INVALID + "K8s token auth mode is currently not supported for RayJob"
    if (cluster.get("upgradeStrategy") or {}).get("type"):
        yield "upgradeStrategy cannot be set when RayCluster is created by RayJob"


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False
