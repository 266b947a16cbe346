"""Whether what a run asks of Ray at once can ever be had from a cluster's node groups, said before anything starts.

A bundle that no group can hold, or a pool larger than its groups may grow, waits for ever without a message
(kuberay#2385).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trace_ray.config import Config
from trace_ray.config.gpus import judging_pools
from trace_ray.config.selection import with_selection
from trace_ray.config.selectors import POOL, selects
from trace_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """A kind of node: ``most`` of them, each with cpus, gpus and labels."""

    name: str
    cpus: float
    gpus: float
    most: int
    labels: Mapping[str, str] = field(default_factory=dict)

    def holds(self, cpus: float, gpus: float) -> int:
        """Returns how many such bundles one node takes."""
        by = [int(have / need) for have, need in ((self.cpus, cpus), (self.gpus, gpus)) if need]
        return min(by) if by else 1

    def admits(self, selector: Mapping[str, str]) -> bool:
        """Returns whether its nodes have such labels; those that Ray finds out for itself (ray.io/...) are taken to hold."""
        known = {k: v for k, v in selector.items() if k in self.labels or not k.startswith("ray.io/")}
        return selects(known, self.labels)


@dataclass(frozen=True)
class Demand:
    """``count`` bundles that a setting asks for at the same time, on nodes that ``selector`` selects."""

    setting: str
    count: int
    cpus: float
    gpus: float
    selector: Mapping[str, str]

    @property
    def placing(self) -> str:
        """The setting that says on which nodes."""
        return f"{self.setting.removesuffix('.max_actors').removesuffix('.workers')}.label_selector"


def demands(config: Config) -> Iterator[Demand]:
    """Yields the largest that each stage asks for at once; stages run one after another."""
    impact, realign, evaluate = config.impact, config.realign, config.evaluate
    least = realign.min_workers or realign.workers
    judging = {f"triage.{name}": pool for name, pool in judging_pools(config.triage).items()}
    for name, judge in (*judging.items(), ("evaluate.judge", evaluate.judge)):
        size = (judge.max_actors, judge.num_cpus, judge.gpus, judge.label_selector)
        yield Demand(f"{name}.max_actors", *size)
    yield Demand("impact", 1, impact.num_cpus, impact.gpus, impact.label_selector)
    yield Demand("realign.workers", least, realign.num_cpus, realign.gpus, realign.label_selector)
    yield Demand("evaluate", 1, evaluate.num_cpus, evaluate.gpus, evaluate.label_selector)


def unmet(config: Config, stages: Sequence[str], cpus: float, gpus: float, otherwise: str) -> Iterator[UserError]:
    """Yields what stages ask for at least and a cluster of this size does not have.

    Args:
        otherwise: what to do instead of asking for less.
    """
    evaluate, realign, impact = config.evaluate, config.realign, config.impact
    stages = with_selection(config, stages)
    asked = [
        *((f"triage.{n}", p.actors, p.num_cpus, p.gpus) for n, p in judging_pools(config.triage).items()),
        ("impact", 1, impact.num_cpus, impact.gpus),
        ("realign", realign.min_workers or realign.workers, realign.num_cpus, realign.gpus),
        ("evaluate", 1, evaluate.num_cpus, evaluate.gpus),
        ("evaluate.judge", evaluate.judge.actors, evaluate.judge.num_cpus, evaluate.judge.gpus),
    ]
    for name, workers, need_cpus, need_gpus in asked:
        for kind, need, there in (("CPU", workers * need_cpus, cpus), ("GPU", workers * need_gpus, gpus)):
            if name.split(".")[0] in stages and need > there:
                yield UserError(name, f"{need:g} {kind}", f"the cluster has {there:g}: ask for less, or {otherwise}")


def shortages(config: Config, groups: Sequence[NodeGroup]) -> Iterator[UserError]:
    """Yields the demands that the groups at their largest cannot meet: setting, bundle asked, most there is, remedy."""
    for demand in demands(config):
        room = rooms(demand, groups)
        asked = f"{demand.count} x {{CPU: {demand.cpus:g}, GPU: {demand.gpus:g}}}"
        labelled = f" with labels {dict(demand.selector)}" if demand.selector else ""
        if not any(group.admits(demand.selector) for group in groups):
            remedy = f"no worker group has such labels: change one, or {demand.setting}'s bundles wait for ever"
            yield UserError(demand.placing, dict(demand.selector), remedy)
        elif not any(room.values()):
            most = ", ".join(f"{g.name} {g.most} x {{CPU: {g.cpus:g}, GPU: {g.gpus:g}}}" for g in groups)
            remedy = f"no node{labelled} is that large ({most}); ask for less or enlarge one"
            yield UserError(demand.setting, asked, remedy)
        elif sum(room.values()) < demand.count:
            most = ", ".join(f"{name} {count}" for name, count in room.items() if count)
            remedy = f"the groups{labelled} hold {sum(room.values())} at most ({most}); lower it or raise maxReplicas"
            yield UserError(demand.setting, asked, remedy)


def strays(config: Config, groups: Sequence[NodeGroup]) -> Iterator[UserError]:
    """Yields the demands for GPUs that may land in several pools: training on a judge's node, a judge on a trainer's.

    Groups without the label of a pool say nothing of what they are for.
    """
    for demand in demands(config):
        room = rooms(demand, groups)
        pools = {group.labels[POOL] for group in groups if POOL in group.labels and room[group.name]}
        if demand.gpus and POOL not in demand.selector and len(pools) > 1:
            remedy = f"may land on {' and '.join(sorted(pools))}; name one, such as {{{POOL}: {min(pools)}}}"
            yield UserError(demand.placing, dict(demand.selector), remedy)


def rooms(demand: Demand, groups: Sequence[NodeGroup]) -> dict[str, int]:
    """Returns {group: bundles of a demand that it holds at its largest}; 0 where its labels are others."""
    return {
        group.name: group.most * group.holds(demand.cpus, demand.gpus) * group.admits(demand.selector)
        for group in groups
    }
