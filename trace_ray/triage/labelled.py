"""Labelled pairs and what the judge said of them, collected from the verdicts on disk."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.cluster.tasks import by_tasks
from trace_ray.config import TriageConfig
from trace_ray.errors import UserError
from trace_ray.judges.clauses import leading
from trace_ray.judges.gates import Gate, refuse_gates
from trace_ray.judges.opinion import clauses_of
from trace_ray.runs.artifacts import AUDIT_FILE
from trace_ray.storage.location import Location
from trace_ray.triage.audit import audit, refuse_unreached_rate
from trace_ray.triage.block import SIDES
from trace_ray.triage.calibrate import Decision
from trace_ray.triage.fitting import Labelled
from trace_ray.triage.gates import audit_gates
from trace_ray.triage.labels import Label, label_of, labelled_rows
from trace_ray.triage.panel_audit import count_decided, member_gates, members_audited, panel_figures
from trace_ray.triage.work import Work

_FILES_IN_TASK = 64
MEMBERS = "others"
"""Where an audit has the figures of a panel's other judges."""
FIRST = "p"
"""How the columns begin that say what triage's own judge said."""
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


def labelled_of(verdicts: Sequence[Location], labels: Labels, judge: str = FIRST) -> list[Labelled]:
    """Returns the labelled pairs in files of verdicts; a refused pair has no verdict, a repeated one an id twice.

    Args:
        judge: who said so: triage's own, or ``second`` or ``third``.
    """
    columns = ["pair_id", "reason", *_said(judge), *_LATER]
    return [pair for place in verdicts for pair in labelled_in_table(place.read_parquet(columns), labels, judge)]


def labelled_in_table(judged: pa.Table, labels: Labels, judge: str = FIRST) -> list[Labelled]:
    """As ``labelled_of``, of one table of verdicts."""
    rows = labelled_rows(judged.filter(pc.is_null(judged["reason"])), labels)
    columns = (rows[name].to_pylist() for name in ("pair_id", *_said(judge)))
    later = (rows[name].to_pylist() if name in rows.column_names else [None] * len(rows) for name in _LATER)
    return [
        Labelled(pair, label_of(pair, labels), chosen, rejected, (a, b), source or "", leading(clauses_of(told)))
        for pair, chosen, rejected, a, b, source, told in zip(*columns, *later, strict=True)
    ]


def _said(judge: str) -> list[str]:
    return [f"{judge}_{side}" for side in SIDES]


def collect(verdicts: Sequence[Location], labels: Labels, judge: str = FIRST) -> list[Labelled]:
    """As ``labelled_of``, of many files, by tasks on the cluster."""
    found = by_tasks(labelled_of, _pieces(verdicts), labels, judge, least=2)
    return [pair for some in found for pair in some]


def _pieces(verdicts: Sequence[Location]) -> list[Sequence[Location]]:
    return [verdicts[start : start + _FILES_IN_TASK] for start in range(0, len(verdicts), _FILES_IN_TASK)]


def audit_verdicts(work: Work, triage: TriageConfig, labels: Labels, blocks: int, made: int) -> dict[str, Any] | None:
    """Returns the audit's figures over all labelled pairs, None without labels.

    Args:
        blocks, made: of the corpus, as ``audited_blocks`` takes them.
    Raises: UserError where no pair has a label.
    """
    if labels == {}:
        return None
    verdicts = _audited(work, triage, labels, blocks, made)
    found = collect(verdicts, labels)
    if not found:
        raise UserError("triage.audit_labels", triage.audit_labels, "no pair of the corpus has a label there")
    return audit(found, triage) | {MEMBERS: members_audited(triage, lambda name: collect(verdicts, labels, name))}


def with_panel_audited(
    figures: Mapping[str, Any] | None, work: Work, triage: TriageConfig, labels: Labels, decision: Decision, read: Any
) -> dict[str, Any] | None:
    """Returns an audit's figures with those of what a panel decides together, under ``panel``; None of no audit.

    Args:
        read: ``account.ReadRows`` of the corpus.
    """
    if figures is None or triage.second_judge is None:
        return dict(figures) if figures is not None else None
    counts: Counter[tuple[str, str]] = Counter()
    pieces = _pieces(_audited(work, triage, labels, read.blocks, read.made))
    for found in by_tasks(count_decided, pieces, labels, decision, least=2):
        counts.update(found)
    return dict(figures) | {"panel": panel_figures(counts)}


def _audited(work: Work, triage: TriageConfig, labels: Labels, blocks: int, made: int) -> list[Location]:
    some = audited_blocks(triage.audit_rows, blocks, made) if labels is None else blocks
    return [work.verdicts(block) for block in range(some)]


def all_gates(triage: TriageConfig, figures: Mapping[str, Any]) -> list[Gate]:
    """Returns the gates of an audit: of triage's own judge, and of the others of a panel, each by its name."""
    return [*audit_gates(triage, figures), *member_gates(triage, figures.get(MEMBERS, {}))]


def refuse_audited(figures: Mapping[str, Any], triage: TriageConfig) -> None:
    """Raises JudgeRejectedError where the figures of an audit refuse the judge, or another one of its panel."""
    refuse_gates(all_gates(triage, figures))
    refuse_unreached_rate(figures)


def store_audit(work: Work, judged: pa.Table, labels: Labels, triage: TriageConfig) -> dict[str, Any]:
    """Audits a table of verdicts and writes the figures at once: should they stop the run, the report shows why."""
    members = members_audited(triage, lambda name: labelled_in_table(judged, labels, name))
    figures = audit(labelled_in_table(judged, labels), triage) | {MEMBERS: members}
    write_audit(work, figures)
    return figures


def write_audit(work: Work, figures: Mapping[str, Any]) -> None:
    """Writes an audit's figures beside the rows that are decided by it."""
    (work.triaged / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
