"""Whether what a run asks of Ray at once can ever be had from a cluster's node groups, said before anything starts.

A bundle that no group can hold, or a pool larger than its groups may grow, waits for ever without a message
(kuberay#2385).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_ray.config import Config
from trace_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Group:
    """A kind of node: ``most`` of them, each with cpus and gpus."""

    name: str
    cpus: float
    gpus: float
    most: int

    def holds(self, cpus: float, gpus: float) -> int:
        """Returns how many such bundles one node takes."""
        by = [int(have / need) for have, need in ((self.cpus, cpus), (self.gpus, gpus)) if need]
        return min(by) if by else 1


@dataclass(frozen=True, kw_only=True)
class Demand:
    """``count`` bundles that a setting asks for at the same time."""

    setting: str
    count: int
    cpus: float
    gpus: float


def demands(config: Config) -> Iterator[Demand]:
    """Yields the largest that each stage asks for at once; stages run one after another."""
    judge, impact, realign, evaluate = config.triage.judge, config.impact, config.realign, config.evaluate
    yield Demand(setting="triage.judge.max_actors", count=judge.max_actors, cpus=judge.num_cpus, gpus=judge.num_gpus)
    yield Demand(setting="impact", count=1, cpus=impact.num_cpus, gpus=impact.num_gpus)
    yield Demand(
        setting="realign.workers",
        count=realign.min_workers or realign.workers,
        cpus=realign.num_cpus,
        gpus=1.0 if realign.use_gpu else 0.0,
    )
    yield Demand(setting="evaluate", count=1, cpus=evaluate.num_cpus, gpus=evaluate.num_gpus)
    judge = evaluate.judge
    yield Demand(setting="evaluate.judge.max_actors", count=judge.max_actors, cpus=judge.num_cpus, gpus=judge.num_gpus)


def shortages(config: Config, groups: Sequence[Group]) -> list[str]:
    """Returns one line for each demand that the groups at their largest cannot meet, naming setting, value, remedy."""
    said = []
    for demand in demands(config):
        fitting = {group.name: group.most * group.holds(demand.cpus, demand.gpus) for group in groups}
        bundle = f"{{CPU: {demand.cpus:g}, GPU: {demand.gpus:g}}}"
        if not any(fitting.values()):
            largest = ", ".join(f"{g.name} {{CPU: {g.cpus:g}, GPU: {g.gpus:g}}}" for g in groups)
            said.append(f"{demand.setting}: {bundle}: no node is that large; ask for less or enlarge one of {largest}")
        elif sum(fitting.values()) < demand.count:
            room = ", ".join(f"{name} {count}" for name, count in fitting.items() if count)
            said.append(
                f"{demand.setting}: {demand.count} x {bundle}: the groups hold {sum(fitting.values())} at most "
                f"({room}); lower it or raise maxReplicas"
            )
    return said


def read_groups(path: Path) -> list[Group]:
    """Returns the worker groups of a manifest or launcher file, for ``shortages``.

    Raises: UserError where the file describes no cluster.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise UserError("--cluster", path, " ".join(str(error).split())[:200]) from None
    for document in documents:
        if isinstance(document, dict) and (
            "available_node_types" in document or document.get("kind") in ("RayCluster", "RayJob")
        ):
            return groups_of(document)
    raise UserError("--cluster", path, "no RayCluster, RayJob or launcher file in it; see clusters/")


def groups_of(manifest: dict[str, Any]) -> list[Group]:
    """Returns the worker groups of a RayCluster or RayJob manifest, or of an AWS cluster launcher file."""
    if "available_node_types" in manifest:
        kinds = manifest["available_node_types"].items()
        return [
            Group(
                name=name,
                cpus=kind["resources"].get("CPU", 0),
                gpus=kind["resources"].get("GPU", 0),
                most=kind.get("max_workers", 0),
            )
            for name, kind in kinds
            if name != manifest["head_node_type"]
        ]
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    return [
        Group(
            name=group["groupName"],
            cpus=float(group["rayStartParams"]["num-cpus"]),
            gpus=float(group["rayStartParams"].get("num-gpus", 0)),
            most=group["maxReplicas"],
        )
        for group in spec["workerGroupSpecs"]
    ]
