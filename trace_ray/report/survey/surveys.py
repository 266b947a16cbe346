"""All that the report's sections know of a run's rows, each part of an artefact read once; texts of the pairs shown alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, zip_longest
from typing import Any, Protocol, TypeVar

from trace_ray.config import Config, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.pairs import categorise
from trace_ray.report.survey.clauses import Clauses, Labels, survey_rules
from trace_ray.report.survey.refused import Refusals, survey_refused
from trace_ray.report.survey.scored import Figures, Scored, Sought, survey_scored
from trace_ray.report.survey.shown import Place, Row, by_part, parts_of_shards, places_of, shown_rows
from trace_ray.report.survey.sums import Addable
from trace_ray.report.survey.triaged import Asked, Triaged, survey_triaged
from trace_ray.runs.artifacts import AUDIT_FILE, REFUSED, Run
from trace_ray.runs.weights import WEIGHTS
from trace_ray.storage.jsonl import read_jsonl
from trace_ray.storage.location import locate

MOST_BY_RULES = 100_000
"""Pairs up to which the report applies the rules itself, seconds."""

Part = TypeVar("Part")
Seen = TypeVar("Seen", bound=Addable)


class Over(Protocol):
    """How a look is taken at parts: ``look(parts)`` itself, or sums of what it returns of some each."""

    def __call__(self, look: Callable[[Sequence[Part]], Seen], parts: Sequence[Part], /) -> Seen: ...


def here(look: Callable[[Sequence[Part]], Seen], parts: Sequence[Part]) -> Seen:
    """Looks at the parts in this process, one by one."""
    return look(parts)


@dataclass(frozen=True)
class Surveys:
    """What was seen of a run's rows.

    Args:
        triaged, scored: None before these are done.
        clauses: which the pairs break, None where nobody told; by_rules: whether rules told, not triage.
        browsed: the pairs to look at; rows: of these and of the clauses' examples, what triage says of them.
        figures: {pair_id: category, weight and impact} of those to look at that were scored.
    """

    triaged: Triaged | None = None
    scored: Scored | None = None
    refused: Refusals = field(default_factory=Refusals)
    clauses: Clauses | None = None
    by_rules: bool = False
    browsed: Sequence[Place] = ()
    rows: Mapping[Place, Row] = field(default_factory=dict)
    figures: Mapping[str, Figures] = field(default_factory=dict)


def surveys(run: Run, config: Config, over: Over = here) -> Surveys:
    """Returns the surveys of what is done; the same whatever ``over``."""
    refused = over(survey_refused, _refused_parts(run))
    if not run.triaged.done():
        return Surveys(refused=refused)
    parts, labels = run.triaged.manifest()["parts"], audit_labels(config)
    asked = Asked(decision_of(run).get("threshold", config.triage.threshold), config.report.sample, labels)
    triaged = over(partial(survey_triaged, run, asked), parts)
    by_rules = not triaged.clauses.named
    clauses: Clauses | None = triaged.clauses
    if by_rules:
        can = any(clause.rule for clause in config.policy.clauses) and triaged.pairs <= MOST_BY_RULES
        clauses = over(partial(survey_rules, run, config.policy, labels), parts) if can else None
    sample = drawn(triaged, config.report.sample)
    scored = _scored(run, config, list(sample), over)
    figures, shards = _figures(scored)
    lacking = {pair_id: shard for pair_id, shard in shards.items() if pair_id not in sample}
    tops = over(partial(places_of, run, list(lacking)), parts_of_shards(parts, lacking.values()))
    browsed = [*sample.values(), *sorted(tops.values())]
    wanted = by_part([*browsed, *(clauses.example_places() if clauses else ())])
    rows = over(partial(shown_rows, run, wanted), list(wanted))
    return Surveys(triaged, scored, refused, clauses, by_rules, browsed, rows, figures)


def decision_of(run: Run) -> Mapping[str, Any]:
    """Returns threshold and band by which triage decided, or by which its audit says that it will; empty where neither told."""
    if run.triaged.done() and (decision := run.triaged.manifest().get("decision")):
        return dict(decision)
    place = run.triaged.place / AUDIT_FILE
    return dict(json.loads(place.read_text()).get("decision", {})) if place.exists() else {}


def drawn(triaged: Triaged, size: int) -> dict[str, Place]:
    """Returns where ``size`` pairs are, by their ids: of each category and split in turn."""
    strata = [kept for _, kept in sorted(triaged.sample.kept.items())]
    turns = (entry for turn in zip_longest(*strata) for entry in turn if entry is not None)
    return {pair_id: (part, row) for pair_id, part, row in islice(turns, size)}


def ranked_by(objective: ObjectiveConfig) -> str:
    """Returns what tells pairs apart: where all weigh alike, their impact."""
    return "impact" if objective.weights == "uniform" else "weight"


def audit_labels(config: Config) -> Labels:
    """Returns {pair_id: category} by the audit's labels, none where they are not at hand any more."""
    path, setting = config.triage.audit_labels, "triage.audit_labels"
    place = locate(path, config.storage) if path not in ("", "from_pairs") else None
    if place is None or not place.exists():
        return {}
    try:
        rows = [row for row, _, _ in read_jsonl(place, setting, "")]
    except UserError:
        return {}
    named = ("violates_chosen", "violates_rejected")
    return {
        str(row["pair_id"]): categorise(not row[named[0]], not row[named[1]]).value
        for row in rows
        if {"pair_id", *named} <= row.keys() and row[named[0]] is not None
    }


def _refused_parts(run: Run) -> list[Any]:
    """Where there are refused rows, of triage and of impact."""
    if not run.rejects.done():
        return []
    rejects = [run.rejects.place / name for name in run.rejects.manifest()["parts"]]
    return [*rejects, *(run.impact.place / REFUSED).files(".parquet")]


def _scored(run: Run, config: Config, ids: Sequence[str], over: Over) -> Scored | None:
    if not run.scored.done():
        return None
    manifest, objective = run.scored.manifest(), config.objective
    sought = Sought(objective.weighed, ranked_by(objective), config.report.top_pairs, ids, manifest.get(WEIGHTS))
    return over(partial(survey_scored, run, sought), manifest["parts"])


def _figures(scored: Scored | None) -> tuple[dict[str, Figures], dict[str, str]]:
    """Returns the figures by pair, and the shards that hold those of the highest rank and those most alike."""
    if scored is None:
        return {}, {}
    tops = [*scored.top.kept.get("", ()), *scored.alike.kept.get("", ())]
    figures = {**scored.figures, **{pair_id: figures for _, pair_id, _, figures in tops}}
    return figures, {pair_id: shard for _, pair_id, shard, _ in tops}
