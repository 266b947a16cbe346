"""`trace-ray plan`: what a run will take, and everything that would stop it, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trace_ray.cluster.capacity import shortages, strays
from trace_ray.cluster.nodes import settle_gpus
from trace_ray.config import Config
from trace_ray.config.check import unfilled
from trace_ray.errors import UserError
from trace_ray.plan import checks
from trace_ray.plan.asked import evaluation_asked, triage_asked
from trace_ray.plan.cards import CardUse, cards_of, too_large
from trace_ray.plan.estimate import estimate
from trace_ray.plan.hub import unreached
from trace_ray.plan.manifest import read_groups
from trace_ray.plan.measure import measure
from trace_ray.plan.on_disk import with_disk
from trace_ray.plan.preflight import preflight
from trace_ray.plan.rates import Rates, given, with_given
from trace_ray.plan.sample import read_sample
from trace_ray.plan.stage_row import StageEstimate
from trace_ray.plan.unready import unready, without_weights
from trace_ray.plan.workload import Workload, workload
from trace_ray.runs.artifacts import STAGES


@dataclass(frozen=True)
class Plan:
    """Problems, and as much of an estimate as they allow."""

    problems: list[UserError]
    load: Workload | None
    rates: Rates | None
    stages: list[StageEstimate]
    sampled: int
    cards: list[CardUse] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns everything for machines."""
        return {
            "problems": [str(problem) for problem in self.problems],
            "workload": asdict(self.load) if self.load else None,
            "rates": asdict(self.rates) if self.rates else None,
            "stages": [asdict(stage) for stage in self.stages],
            "sampled": self.sampled,
            "cards": [asdict(card) | {"needed": card.needed} for card in self.cards],
        }


def make_plan(
    config: Config,
    run_uri: str | None,
    note: Callable[[str], None] = lambda _piece: None,
    stages: Sequence[str] = STAGES,
) -> Plan:
    """Returns the plan of a run.

    Args:
        config: with absolute model paths.
        run_uri: the run's folder, checked for writing; None = not checked.
        note: told what is being measured.
        stages: those that are planned.
    """
    problems: list[UserError] = []
    manifest = config.plan.manifest
    groups = (checks.attempt(problems, lambda: read_groups(manifest)) or []) if manifest else []
    have = checks.cluster_size(config.ray, config.plan, groups)
    config = settle_gpus(config, stages, checks.gpus_of(have, groups))
    if run_uri:
        checks.attempt(problems, lambda: checks.check_run_folder(run_uri, config.storage))
        checks.attempt(problems, lambda: checks.check_begun(run_uri, config, stages))
    if groups:
        problems += [*shortages(config, groups), *strays(config, groups)]
    elif not manifest:
        problems += checks.check_resources(config, stages, have)
    if blank := list(unfilled(config)):  # nothing of it can be looked at
        return Plan(distinct([*problems, *blank]), None, None, [], 0)
    sources = checks.find_sources(config, stages, problems)
    if far := unreached(config, stages):  # what is here is looked at all the same, what is there is not asked for again
        return Plan(distinct([*problems, *unready(config, stages), far]), None, None, [], 0)
    loads = checks.check_tokenizers(config, problems)
    empty = list(without_weights(config, stages))
    problems += preflight(config, stages)
    cards = checks.attempt(problems, lambda: cards_of(config, stages, checks.card_bytes(config.plan))) or []
    problems += too_large(cards)
    sample = checks.attempt(problems, lambda: read_sample(sources, config)) if sources and loads else None
    if sample is None:
        return Plan(distinct(problems), None, None, [], 0, cards)
    load = workload(sample.pairs, sample.rows, config, sample.own, sample.attacks)
    asked = [*triage_asked(sample.pairs, sample.readings, config), *evaluation_asked(load, config)]
    problems += checks.check_pairs(sample, load, config)
    if config.plan.measure:
        rates, failed = measure(sample, config, stages, note) if not empty else (None, [])
        problems += failed
    else:
        rates = checks.attempt(problems, lambda: given(config))
    estimates = estimate(load, asked, with_given(rates, config), config, have, stages) if rates else []
    estimates = with_disk(estimates, load, config) if loads else estimates
    problems += checks.check_cost(estimates, config.ray.max_cost, config.rounds.number)
    if not (config.ray.address or config.plan.cpus or manifest):
        problems += checks.check_memory(estimates, checks.machine_memory_gib())
    return Plan(distinct(problems), load, rates, estimates, len(sample.pairs), cards)


def distinct(problems: list[UserError]) -> list[UserError]:
    """Returns each problem once, in order."""
    return list({str(problem): problem for problem in problems}.values())
