"""The end of a triage: every row accounted for, the two manifests."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trace_ray.config import Config, TriageConfig, judge_name
from trace_ray.config.gpus import of_stages
from trace_ray.config.policy import PolicyConfig, policy_hash, unruled
from trace_ray.judges.against_labels import without_curve
from trace_ray.judges.spend import spent
from trace_ray.pairs import REJECT_SCHEMA, TRIAGED_SCHEMA
from trace_ray.runs.artifacts import CANARIES, DISTILLED, GATES, MANIFEST, REVIEW, Run, read_json
from trace_ray.triage.account import ReadRows
from trace_ray.triage.calibrate import Decision
from trace_ray.triage.deciding import DecidedCorpus
from trace_ray.triage.unread import tell_refused
from trace_ray.triage.voting import agreement
from trace_ray.triage.work import Work


@dataclass(frozen=True)
class TriageOutcome:
    """What a triage did: how it read, what its judges used, what it decided and how, its audit."""

    read: ReadRows
    used: dict[str, int]
    decided: DecidedCorpus
    decision: Decision
    figures: dict[str, Any] | None


def publish(run: Run, policy: PolicyConfig, triage: TriageConfig, outcome: TriageOutcome, started: float) -> None:
    """Checks that no row is lost, then publishes rejects/ and triaged/ and removes the work folder."""
    outcome.decided.account.check(run, outcome.read)
    rejects = dict(outcome.decided.account.reasons)
    found = {"rows_in": outcome.read.rows, "rejects": sum(rejects.values())}
    found |= {"extra_pairs": outcome.read.extra} if outcome.read.extra else {}
    decided = {name: value for name, value in outcome.decided.counts.items() if name not in rejects}
    place = Work.of(run).place / CANARIES
    canaries = json.loads(place.read_text()) if place.exists() else None
    seconds = time.monotonic() - started
    place = run.triaged.place / GATES
    gates = json.loads(place.read_text()) if place.exists() else []
    run.rejects.publish(counts=found | rejects, seconds=seconds, schema=REJECT_SCHEMA)
    taught = run.triaged.place / DISTILLED
    distilled = json.loads(taught.read_text()) if taught.exists() else None
    kept = {"canaries": canaries, "gates": gates, "hub": dict(outcome.read.hub), "distilled": distilled}
    _publish_triaged(run, policy, triage, outcome, found | decided, kept, seconds)
    tell_refused(rejects, outcome.read.rows)


def unchecked_by_rules(policy: PolicyConfig, triage: TriageConfig) -> list[str]:
    """Returns the ids of the clauses that nobody checks: those without a rule, where rules judge."""
    return unruled(policy) if triage.judge.backend == "rules" else []


def publish_again(run: Run, policy: PolicyConfig, triage: TriageConfig, outcome: TriageOutcome, seconds: float) -> None:
    """Publishes rows that were decided again: none more and none fewer, by the counts of the manifests that are there."""
    refused, before = (read_json(artifact.place / MANIFEST) for artifact in (run.rejects, run.triaged))
    counts = outcome.decided.counts
    if counts.get("triaged", 0) != before["counts"].get("triaged", 0):
        raise RuntimeError(f"deciding again lost rows: {before['counts']} before, {counts} now")
    found = {name: before["counts"][name] for name in ("rows_in", "rejects", "extra_pairs") if name in before["counts"]}
    seconds += before["seconds"]
    run.rejects.publish(counts=refused["counts"], seconds=refused["seconds"], schema=REJECT_SCHEMA)
    kept = {name: before.get(name) for name in ("canaries", "gates", "hub", "distilled", "gpus")}
    _publish_triaged(run, policy, triage, outcome, found | counts, kept, seconds)


def _publish_triaged(
    run: Run,
    policy: PolicyConfig,
    triage: TriageConfig,
    outcome: TriageOutcome,
    counts: Mapping[str, int],
    kept: Mapping[str, Any],
    seconds: float,
) -> None:
    """Args: kept: facts of reading and judging: ``hub``, commits; ``canaries``; ``gates``; ``distilled``, if any."""
    work, cost = Work.of(run), spent(triage, outcome.used)
    facts = {
        "policy": {"name": policy.name, "version": policy.version, "hash": policy_hash(policy)},
        "judge": judge_name(triage.judge),
        "gpus": of_stages(Config(triage=triage), ["triage"]),
        "unchecked_clauses": unchecked_by_rules(policy, triage),
        "used": outcome.used,
        "endpoints": cost.as_json() if cost is not None else None,
        "decision": asdict(outcome.decision),
        "audit": without_curve(outcome.figures) if outcome.figures else None,
        "judges": agreement(outcome.decided.counts),
        "escalated_share": _share(outcome.used, "escalated", "cascade_judged"),
        "prefix_cache_hit_rate": _share(outcome.used, "prefix_cache_hits", "prefix_cache_queries"),
        "engine_busy_share": _busy(outcome.used),
        "requests": outcome.decided.requests.told(),
        "review": REVIEW if outcome.decided.undecided else None,
        **kept,
    }
    run.triaged.publish(counts=counts, seconds=seconds, schema=TRIAGED_SCHEMA, **facts)
    work.sweep()


def _busy(counts: Mapping[str, int]) -> float | None:
    """The share of the judge's time in which its engine computed, between its first question and its last."""
    whole = counts.get("engine_ms", 0) + counts.get("engine_waited_ms", 0)
    return counts["engine_ms"] / whole if whole else None


def _share(counts: Mapping[str, int], part: str, whole: str) -> float | None:
    return counts.get(part, 0) / counts[whole] if counts.get(whole) else None
