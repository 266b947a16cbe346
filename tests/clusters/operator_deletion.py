"""The operator's rules on what a finished RayJob leaves behind (its feature gate RayJobDeletionPolicy is off by default)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

Yaml = dict[str, Any]
INVALID = "The RayJob spec is invalid: "
ORDER = ["DeleteWorkers", "DeleteCluster", "DeleteSelf"]
"""What goes later may not have the shorter time to live."""


def deletion_refusals(spec: Yaml, *, gate: bool = False) -> Iterator[str]:
    """Yields what is wrong with ``ttlSecondsAfterFinished`` and ``deletionStrategy``.

    Args:
        gate: whether the operator runs with the feature gate.
    """
    stops, strategy = bool(spec.get("shutdownAfterJobFinishes")), spec.get("deletionStrategy")
    if not stops and spec.get("ttlSecondsAfterFinished", 0) > 0:
        yield INVALID + "a RayJob with shutdownAfterJobFinishes set to false cannot have TTLSecondsAfterFinished"
    if strategy is None:
        return
    if not gate:
        yield "RayJobDeletionPolicy feature gate must be enabled to use DeletionStrategy"
        return
    rules, pair = strategy.get("deletionRules") or [], [strategy.get("onSuccess"), strategy.get("onFailure")]
    if rules and stops:
        yield INVALID + "spec.shutdownAfterJobFinishes and spec.deletionStrategy.deletionRules are mutually exclusive"
    if rules and any(pair):
        yield INVALID + "Cannot use both legacy onSuccess/onFailure fields and deletionRules simultaneously"
    scales = bool((spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"))
    selected = bool(spec.get("clusterSelector"))
    if any(pair):
        yield from _pair(pair, scales=scales, selected=selected, stops=stops)
    elif rules:
        yield from _rules(rules, scales=scales, selected=selected)
    else:
        yield INVALID + "DeletionStrategy requires either BOTH onSuccess and onFailure, OR the deletionRules field"


def _pair(pair: list[Yaml | None], *, scales: bool, selected: bool, stops: bool) -> Iterator[str]:
    if None in pair:
        yield "both DeletionStrategy.OnSuccess and DeletionStrategy.OnFailure must be set"
        return
    policies = [(rule or {}).get("policy") for rule in pair]
    if None in policies:
        yield "the DeletionPolicyType field of DeletionStrategy cannot be unset when DeletionStrategy is enabled"
        return
    if selected and {"DeleteCluster", "DeleteWorkers"} & set(policies):
        yield "the ClusterSelector mode doesn't support DeletionStrategy=DeleteCluster or DeleteWorkers"
    if scales and "DeleteWorkers" in policies:
        yield "DeletionStrategy=DeleteWorkers currently does not support RayCluster with autoscaling enabled"
    if stops and "DeleteNone" in policies:
        yield INVALID + "shutdownAfterJobFinshes is set to 'true' while deletion policy is 'DeleteNone'"


def _rules(rules: list[Yaml], *, scales: bool, selected: bool) -> Iterator[str]:
    lives: dict[tuple[str, str], dict[str, int]] = {}
    for number, rule in enumerate(rules):
        where, condition, policy = f"deletionRules[{number}]: ", rule["condition"], rule["policy"]
        states = [(name, condition[name]) for name in ("jobStatus", "jobDeploymentStatus") if condition.get(name)]
        if len(states) != 1:
            yield where + "exactly one of JobStatus and JobDeploymentStatus must be set"
            continue
        if condition.get("ttlSeconds", 0) < 0:
            yield where + "TTLSeconds must be non-negative"
        if selected and policy in ("DeleteCluster", "DeleteWorkers"):
            yield where + f"DeletionPolicyType '{policy}' not supported when ClusterSelector is set"
        if scales and policy == "DeleteWorkers":
            yield where + "DeletionPolicyType 'DeleteWorkers' not supported with autoscaling enabled"
        if policy in lives.setdefault(states[0], {}):
            yield where + f"duplicate rule for DeletionPolicyType '{policy}'"
        lives[states[0]].setdefault(policy, condition.get("ttlSeconds", 0))
    for (_, state), ttls in lives.items():
        known = [(policy, ttls[policy]) for policy in ORDER if policy in ttls]
        for (early, before), (late, after) in pairwise(known):
            if after < before:
                yield f"'{state}': {late} TTL ({after}) must be >= {early} TTL ({before})"
