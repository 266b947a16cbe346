"""What every cluster needs beside Ray: namespace, accounts, the cache volume, priorities, what keeps pods from eviction."""

from __future__ import annotations

from clusters.manifests.objects import NAMESPACE, OURS, Yaml, an_object, metadata

NEVER = 1_000_000
"""More pods than there will be: none may be evicted. Kubernetes takes no percentage for pods of another's controller."""


def common() -> list[Yaml]:
    """Returns the objects; an overlay gives the accounts their roles and the claim its storage class."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    accounts = [
        an_object("v1", "ServiceAccount", name, automountServiceAccountToken=False)
        for name in ("trace-ray-head", "trace-ray-worker")
    ]
    claim_spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "500Gi"}}}
    claim = an_object("v1", "PersistentVolumeClaim", "trace-ray-cache", spec=claim_spec)
    budget_spec = {"minAvailable": NEVER, "selector": {"matchLabels": dict(OURS)}}
    budget = an_object("policy/v1", "PodDisruptionBudget", "trace-ray", spec=budget_spec)
    return [namespace, *accounts, claim, budget, *_priorities()]


def _priorities() -> list[Yaml]:
    """Workers wait for their turn and push nobody out; the head, whose loss costs most, is placed before them."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {key: value for key, value in metadata(name).items() if key != "namespace"},
            "value": value,
            "preemptionPolicy": "Never",
            "description": f"trace-ray: {name.removeprefix('trace-ray-')}",
        }
        for name, value in (("trace-ray-head", 1000), ("trace-ray-worker", 100))
    ]
