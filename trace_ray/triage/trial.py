"""Judges tried by hostile canaries on the cluster, once a run, and what that came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trace_ray.config import TriageConfig, judge_name
from trace_ray.corpus.read import SLOT_SCHEMA
from trace_ray.judges.canaries import CanaryLimits, canary_report, refuse_canaries
from trace_ray.judges.opinion import Judge
from trace_ray.runs.artifacts import CANARIES
from trace_ray.triage.guard import GuardedJudge
from trace_ray.triage.questions import prompt_texts
from trace_ray.triage.work import Work
from trace_ray.triage.workers import Task

CANARY_PAIRS = 16


def check_canaries(task: Task, judges: Mapping[str, Judge], block: int) -> None:
    """Runs the canaries of every judge that reads before any row of the corpus is judged; rules are exact.

    Their seeds are pairs of the first block that is not empty: the same for every actor.

    Args:
        judges: by setting's name; triage.judge as it judges, behind its first judge.
        block: the actor's first: after a death it comes again, so its number finds the marks that were left.
    Raises: JudgeRejectedError below ``triage.min_canary_pass``, or for a judge that says nothing or the same to all.
    """
    config, place = task.config, task.work.place / CANARIES
    reports = canary_reports(task.work)
    if missing := {name: judge for name, judge in judges.items() if name not in reports}:
        tables = (task.work.pairs(number) for number in range(task.blocks))
        pairs = next((table for table in tables if table.num_rows), SLOT_SCHEMA.empty_table()).slice(0, CANARY_PAIRS)
        requests = prompt_texts(pairs["prompt"]) * 2
        responses = [*pairs["rejected"].to_pylist(), *pairs["chosen"].to_pylist()]
        for name, judge in missing.items():
            guard = task.guard(f"canaries-{block:06d}/{name}", config.judge.batch_rows)
            reports[name] = canary_report(GuardedJudge(judge, guard), requests, responses, config.threshold)
        others = {name: report for name, report in reports.items() if name != "triage.judge"}
        place.write_text(json.dumps(reports.get("triage.judge", {}) | ({"others": others} if others else {})))
    refuse_tried(config, {name: reports[name] for name in judges})


def canary_reports(work: Work) -> dict[str, dict[str, Any]]:
    """Returns {setting of a judge: what its canaries came to} of those that were tried."""
    place = work.place / CANARIES
    told: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
    others: dict[str, dict[str, Any]] = told.pop("others", {})
    return others | ({"triage.judge": told} if told else {})


def refuse_tried(config: TriageConfig, reports: Mapping[str, dict[str, Any]]) -> None:
    """Raises JudgeRejectedError where the canaries of one of the judges refuse it."""
    for name, report in reports.items():
        if "candidates" in report:
            judge = judge_name(getattr(config, name.removeprefix("triage.")))
            refuse_canaries(report, canary_limits(config), name, judge)


def canary_limits(config: TriageConfig) -> CanaryLimits:
    """Returns what the canaries of triage's judges are held to."""
    return CanaryLimits(
        section="triage",
        min_canary_pass=config.min_canary_pass,
        max_unreadable=config.max_unreadable,
        may_condemn=config.max_one_sided >= 1,
        condemns_by="triage.max_one_sided=1",
    )
