"""The panel of a triage: how its judges' votes on the whole corpus, and labels, say what each is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.cluster.tasks import by_tasks
from trace_ray.config import TriageConfig
from trace_ray.storage.location import Location
from trace_ray.triage.block import SIDES
from trace_ray.triage.calibrate import Decision
from trace_ray.triage.dawid_skene import SILENT, Counts, Skills, fit_skills
from trace_ray.triage.labelled import Labels, audited_blocks
from trace_ray.triage.panel import DAWID_SKENE, Panel
from trace_ray.triage.voting import groups_of, said_of, votes
from trace_ray.triage.work import Work

_FILES_IN_TASK = 64


def with_panel(
    decision: Decision, work: Work, triage: TriageConfig, labels: Labels, blocks: int, made: int
) -> Decision:
    """Returns the decision with ``triage.combine``; what its judges are worth is read off the verdicts on disk.

    Args:
        blocks, made: of the corpus, as ``labelled.audited_blocks`` takes them.
    """
    if triage.combine != DAWID_SKENE:
        return replace(decision, panel=Panel(triage.combine))
    judges = 2 + (triage.third_judge is not None)
    told = audited_blocks(triage.audit_rows, blocks, made) if labels is None else blocks
    counts: Counter[tuple[tuple[int, ...], int]] = Counter()
    for first, last, known in ((0, told, labels), (told, blocks, {})):
        files = [work.verdicts(block) for block in range(first, last)]
        pieces = [files[start : start + _FILES_IN_TASK] for start in range(0, len(files), _FILES_IN_TASK)]
        for found in by_tasks(count_votes, pieces, known, decision, judges, least=2):
            counts.update(found)
    skills = fit_skills(counts) if counts else Skills(0.5, [0.5] * judges, [0.5] * judges)  # no pair is left to vote on
    return replace(decision, panel=Panel(triage.combine, skills))


def count_votes(verdicts: Sequence[Location], labels: Labels, decision: Decision, judges: int) -> Counts:
    """Returns the votes of so many judges on the responses of files of verdicts, pattern by pattern.

    A response that stands in several pairs counts in each.
    """
    counts: Counter[tuple[tuple[int, ...], int]] = Counter()
    for place in verdicts:
        judged = place.read_parquet()
        judged = judged.filter(pc.is_null(judged["reason"]))
        said, groups = said_of(judged, decision, judges), groups_of(judged, decision)
        for number, side in enumerate(SIDES):
            cast, _ = votes(said[:judges], side, groups)
            rows, times = np.unique(
                np.column_stack([cast, _labels(judged, labels, number)]), axis=0, return_counts=True
            )
            for row, responses in zip(rows.tolist(), times.tolist(), strict=True):
                counts[tuple(row[:-1]), row[-1]] += responses
    return counts


def _labels(judged: pa.Table, labels: Mapping[str, Any] | None, side: int) -> Any:
    """The label of each response as a vote; from_pairs says that the chosen one complies."""
    if labels is None:
        return np.full(judged.num_rows, side, dtype=np.int8)
    known = [labels.get(pair) for pair in judged["pair_id"].to_pylist()] if labels else [None] * judged.num_rows
    return np.array([SILENT if label is None else int(label[side]) for label in known], dtype=np.int8)
