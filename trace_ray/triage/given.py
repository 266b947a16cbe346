"""The files that triage is given besides its corpus, read as a whole before anything is judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from trace_ray.config import Config, StorageConfig, TriageConfig
from trace_ray.config.judge_check import tells_clauses
from trace_ray.errors import UserError
from trace_ray.judges.backends import corrector_kind
from trace_ray.judges.gold import read_gold
from trace_ray.storage.jsonl import read_utf8
from trace_ray.storage.location import Location, expand
from trace_ray.triage.calibrate import CLAUSE, Decision, decision_of
from trace_ray.triage.labels import FROM_PAIRS, Label, read_label_files, read_labels

AUDIT = "triage.audit_file"


@dataclass(frozen=True)
class Given:
    """What was read.

    Args:
        labels: {pair_id: Label} of ``triage.audit_labels``, empty without one; None = from_pairs.
        overruled: {pair_id: Label} of ``triage.review_labels``.
        decision: of ``triage.audit_file``; None without one.
    """

    labels: Mapping[str, Label] | None
    overruled: Mapping[str, Label]
    decision: Decision | None


def read_given(triage: TriageConfig, storage: StorageConfig) -> Given:
    """Returns what the label and audit files hold. Raises UserError, naming the setting, for one that is wrong."""
    read = (triage, storage)
    return Given(audit_labels(*read), review_labels(*read), audit_decision(*read))


def label_files(triage: TriageConfig, storage: StorageConfig, name: str) -> list[Location]:
    """Returns the files that the setting ``triage.<name>`` names, none where it is empty or from_pairs."""
    value = getattr(triage, name)
    return expand((value,), storage, f"triage.{name}") if value not in ("", FROM_PAIRS) else []


def audit_labels(triage: TriageConfig, storage: StorageConfig) -> Mapping[str, Label] | None:
    """Returns the labels of ``triage.audit_labels``, none without one; None = from_pairs."""
    files = label_files(triage, storage, "audit_labels")
    if files:
        return read_labels(files[0], "triage.audit_labels")
    return None if triage.audit_labels == FROM_PAIRS else {}


def review_labels(triage: TriageConfig, storage: StorageConfig) -> Mapping[str, Label]:
    """Returns the labels of ``triage.review_labels``, a file or the folder of a review, none without one."""
    files = label_files(triage, storage, "review_labels")
    return read_label_files(files, "triage.review_labels") if files else {}


def audit_decision(triage: TriageConfig, storage: StorageConfig) -> Decision | None:
    """Returns the decision that ``triage.audit_file`` stored. Raises UserError for a file that holds none, or none for this."""
    files = label_files(triage, storage, "audit_file")
    if not files:
        return None
    try:
        decision = decision_of(json.loads(read_utf8(files[0], AUDIT))["decision"])
        decision.categories(np.array([0.5]), np.array([0.5]))  # a number that is none would be met only after judging
    except (ValueError, KeyError, TypeError):
        remedy = "no audit with a decision; name the audit.json that `trace-ray audit` wrote"
        raise UserError(AUDIT, files[0].uri, remedy) from None
    if decision.groups and decision.by == CLAUSE and not tells_clauses(triage):
        remedy = "it goes by clause, and these verdicts tell of none: set triage.clauses=true, or audit by source"
        raise UserError(AUDIT, files[0].uri, remedy)
    return decision


def with_gold(config: Config) -> TriageConfig:
    """Returns the settings with the full address of gold responses that will be used, once each of them can be read."""
    if corrector_kind(config.policy, config.triage) != "gold":
        return config.triage
    place = expand((config.triage.gold_responses,), config.storage, "triage.gold_responses")[0]
    read_gold(place)
    return replace(config.triage, gold_responses=place.uri)
