"""Whether what a run asks of Ray at once can ever be had from a cluster's node groups, said before anything starts.

A bundle that no group can hold, or a pool larger than its groups may grow, waits for ever without a message
(kuberay#2385).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trace_ray.config import Config
from trace_ray.errors import UserError

_SETTING = "plan.manifest"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
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


def unmet(config: Config, stages: Sequence[str], cpus: float, gpus: float, otherwise: str) -> Iterator[UserError]:
    """Yields what stages ask for at least and a cluster of this size does not have.

    Args:
        otherwise: what to do instead of asking for less.
    """
    triage, evaluate, realign, impact = config.triage.judge, config.evaluate, config.realign, config.impact
    asked = [
        ("triage.judge", triage.actors, triage.num_cpus, triage.num_gpus),
        ("impact", 1, impact.num_cpus, impact.num_gpus),
        ("realign", realign.min_workers or realign.workers, realign.num_cpus, 1.0 if realign.use_gpu else 0.0),
        ("evaluate", 1, evaluate.num_cpus, evaluate.num_gpus),
        ("evaluate.judge", evaluate.judge.actors, evaluate.judge.num_cpus, evaluate.judge.num_gpus),
    ]
    for name, workers, need_cpus, need_gpus in asked:
        for kind, need, there in (("CPU", workers * need_cpus, cpus), ("GPU", workers * need_gpus, gpus)):
            if name.split(".")[0] in stages and need > there:
                yield UserError(name, f"{need:g} {kind}", f"the cluster has {there:g}: ask for less, or {otherwise}")


def shortages(config: Config, groups: Sequence[NodeGroup]) -> Iterator[UserError]:
    """Yields the demands that the groups at their largest cannot meet: setting, bundle asked, most there is, remedy."""
    for demand in demands(config):
        room = {group.name: group.most * group.holds(demand.cpus, demand.gpus) for group in groups}
        asked = f"{demand.count} x {{CPU: {demand.cpus:g}, GPU: {demand.gpus:g}}}"
        if not any(room.values()):
            most = ", ".join(f"{g.name} {g.most} x {{CPU: {g.cpus:g}, GPU: {g.gpus:g}}}" for g in groups)
            yield UserError(demand.setting, asked, f"no node is that large ({most}); ask for less or enlarge one")
        elif sum(room.values()) < demand.count:
            most = ", ".join(f"{name} {count}" for name, count in room.items() if count)
            remedy = f"the groups hold {sum(room.values())} at most ({most}); lower it or raise maxReplicas"
            yield UserError(demand.setting, asked, remedy)


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
    return NodeGroup(name=name, cpus=cpus, gpus=gpus, most=int(kind.get("max_workers", 0)))


def _worker_group(group: Mapping[str, Any]) -> NodeGroup:
    started = _of_kind(dict, group, "rayStartParams")
    return NodeGroup(
        name=group["groupName"],
        cpus=float(started["num-cpus"]),
        gpus=float(started.get("num-gpus", 0)),
        most=int(group["maxReplicas"]),
    )


def _of_kind(kind: type[T], parent: Mapping[str, Any], name: str) -> T:
    """The part of this name, where it is what Ray expects there."""
    part = parent[name]
    if not isinstance(part, kind):
        expected = "a list" if kind is list else "a mapping"
        raise TypeError(f"{name} is {'empty' if part is None else f'a {type(part).__name__}'}, not {expected}")
    return part
