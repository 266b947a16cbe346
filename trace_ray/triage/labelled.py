"""Labelled pairs and what the judge said of them, collected from the verdicts on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.cluster.tasks import by_tasks
from trace_ray.config import TriageConfig
from trace_ray.errors import UserError
from trace_ray.judges.clauses import leading
from trace_ray.judges.opinion import clauses_of
from trace_ray.runs.artifacts import AUDIT_FILE
from trace_ray.storage.location import Location
from trace_ray.triage.audit import audit, refuse_unreached_rate
from trace_ray.triage.fitting import Labelled
from trace_ray.triage.gates import audit_gates, refuse_gates
from trace_ray.triage.labels import Label, label_of, labelled_rows
from trace_ray.triage.work import Work

_FILES_IN_TASK = 64
_COLUMNS = ["pair_id", "p_chosen", "p_rejected", "reason"]
_LATER = ["yes_bias_chosen", "yes_bias_rejected", "source", "clause_p_chosen"]
"""Columns that verdicts of earlier versions do not have."""

Labels = Mapping[str, Label] | None
"""By pair_id; None = from_pairs."""
Collect = Callable[[Sequence[Location], Labels], list[Labelled]]


def audited_blocks(audit_rows: int, blocks: int, made: int) -> int:
    """Returns how many blocks hold about ``audit_rows`` of the ``made`` pairs: those that from_pairs audits.

    >>> audited_blocks(100, 16, 1000)
    2
    """
    return min(blocks, math.ceil(audit_rows * blocks / made))


def labelled_of(verdicts: Sequence[Location], labels: Labels) -> list[Labelled]:
    """Returns the labelled pairs in files of verdicts; a refused pair has no verdict, a repeated one an id twice."""
    return [pair for place in verdicts for pair in labelled_in_table(place.read_parquet([*_COLUMNS, *_LATER]), labels)]


def labelled_in_table(judged: pa.Table, labels: Labels) -> list[Labelled]:
    """As ``labelled_of``, of one table of verdicts."""
    rows = labelled_rows(judged.filter(pc.is_null(judged["reason"])), labels)
    columns = (rows[name].to_pylist() for name in _COLUMNS[:3])
    later = (rows[name].to_pylist() if name in rows.column_names else [None] * len(rows) for name in _LATER)
    return [
        Labelled(pair, label_of(pair, labels), chosen, rejected, (a, b), source or "", leading(clauses_of(told)))
        for pair, chosen, rejected, a, b, source, told in zip(*columns, *later, strict=True)
    ]


def collect(verdicts: Sequence[Location], labels: Labels) -> list[Labelled]:
    """As ``labelled_of``, of many files, by tasks on the cluster."""
    starts = range(0, len(verdicts), _FILES_IN_TASK)
    pieces = [verdicts[start : start + _FILES_IN_TASK] for start in starts]
    return [pair for found in by_tasks(labelled_of, pieces, labels, least=2) for pair in found]


def audit_verdicts(work: Work, triage: TriageConfig, labels: Labels, blocks: int, made: int) -> dict[str, Any] | None:
    """Returns the audit's figures over all labelled pairs, None without labels.

    Args:
        blocks, made: of the corpus, as ``audited_blocks`` takes them.
    Raises: UserError where no pair has a label.
    """
    if labels == {}:
        return None
    some = audited_blocks(triage.audit_rows, blocks, made) if labels is None else blocks
    found = collect([work.verdicts(block) for block in range(some)], labels)
    if not found:
        raise UserError("triage.audit_labels", triage.audit_labels, "no pair of the corpus has a label there")
    return audit(found, triage)


def refuse_audited(figures: Mapping[str, Any], triage: TriageConfig) -> None:
    """Raises JudgeRejectedError where the figures of an audit refuse the judge."""
    refuse_gates(audit_gates(triage, figures))
    refuse_unreached_rate(figures)


def store_audit(work: Work, labelled: Sequence[Labelled], triage: TriageConfig) -> dict[str, Any]:
    """Audits and writes the figures at once: should they stop the run, the report shows why."""
    figures = audit(labelled, triage)
    write_audit(work, figures)
    return figures


def write_audit(work: Work, figures: Mapping[str, Any]) -> None:
    """Writes an audit's figures beside the rows that are decided by it."""
    (work.triaged / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
