"""Hostile canaries for the judge of the answers: once an evaluation or selection, and not where triage tried that judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trace_ray.config import Config, JudgeConfig, judge_name
from trace_ray.config.check import triage_judges
from trace_ray.errors import JudgeRejectedError
from trace_ray.judges.backends import names_clauses, says_alike
from trace_ray.judges.canaries import CanaryLimits, Judging, canary_report, refuse_canaries
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

PROMPTS = 16
"""Whose answers, of both models, are candidates for seeds."""
_BEHIND = ("triage.judge", "triage.first_judge")
"""What triage asks for clauses."""


def asks_clauses(config: Config) -> bool:
    """Returns whether the judge of the answers is asked of each clause too: rules say it unasked."""
    evaluate = config.evaluate
    asked = evaluate.judge.backend == "rules" or (evaluate.clauses and evaluate.judge.verdict_by == "question")
    return bool(config.policy.clauses) and asked


def to_be_tried(run: Run, config: Config, place: Location) -> bool:
    """Returns whether the judge's canaries are yet to be tried; what triage's came to is kept where it was that very judge.

    Args:
        place: of what they come to.
    Raises: JudgeRejectedError where canaries that were tried refuse it.
    """
    if config.evaluate.judge.backend == "rules":
        return False
    if not place.exists():
        passed = passed_in_triage(run, config)
        if passed is None:
            return True
        place.write_text(json.dumps(passed | {"tried_by": "triage"}))
    _refuse(json.loads(place.read_text()), config)
    return False


def passed_in_triage(run: Run, config: Config) -> dict[str, Any] | None:
    """Returns what the canaries of this run's triage came to where they tried the judge of the answers, and it passed."""
    told = dict(run.triaged.manifest().get("canaries") or {})
    reports: dict[str, dict[str, Any]] = told.pop("others", {})
    if told and config.triage.first_judge is None:  # else they were asked of both together
        reports = reports | {"triage.judge": told}
    for where, judge in triage_judges(config.triage).items():
        report = reports.get(where)
        if report and report.get("pass_rate") is not None and _very_same(config, where, judge):
            try:
                _refuse(report, config)
            except JudgeRejectedError:
                return None
            return report
    return None


def _very_same(config: Config, where: str, judge: JudgeConfig) -> bool:
    by_clause = where in _BEHIND and names_clauses(config.triage)
    return says_alike(judge, config.evaluate.judge) and by_clause == asks_clauses(config)


def try_canaries(judge: Judging, config: Config, answers: Sequence[Location], place: Location) -> None:
    """Tries the judge, unless another actor has, and keeps what it came to.

    Args:
        answers: parts of ``generated/``, whose first answers are candidates for seeds; place: where the report goes.
    Raises: JudgeRejectedError where the report refuses the judge.
    """
    if not place.exists():
        rows = [row for part in answers for row in part.read_parquet().slice(0, PROMPTS).to_pylist()]
        texts = [row["prompt"] for row in rows], [row["response"] for row in rows]
        place.write_text(json.dumps(canary_report(judge, *texts, config.triage.threshold)))
    _refuse(json.loads(place.read_text()), config)


def _refuse(report: dict[str, Any], config: Config) -> None:
    evaluate = config.evaluate
    limits = CanaryLimits(
        section="evaluate",
        min_canary_pass=evaluate.min_canary_pass,
        max_unreadable=evaluate.max_unreadable,
        may_condemn=evaluate.min_canary_pass == 0,
        condemns_by="evaluate.min_canary_pass=0",
    )
    refuse_canaries(report, limits, "evaluate.judge", judge_name(evaluate.judge))
