"""The judge of the answers against labels that people gave: it is asked about labelled responses of the corpus too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.errors import UserError
from trace_ray.evaluate.answering import CHUNK_ROWS, Chunk, write_part
from trace_ray.evaluate.corrected import Rates
from trace_ray.judges.labels import Label
from trace_ray.pairs import prompt_text
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

AUDIT, LABELLED = "audit", "labelled"
"""Folder of the judged responses in evaluation/; in the place of a model's name."""
_SIDES = ("chosen", "rejected")
Judged = Sequence[tuple[bool, bool]]
"""(Truly complies, was called compliant) of each labelled response."""


def write_labelled(run: Run, labels: Mapping[str, Label], generated: Location) -> list[Chunk]:
    """Writes the labelled pairs' responses as if they were answers, and returns them as chunks for ``AnswerJudge``.

    Raises: UserError where no pair of the run has a label.
    """
    rows: list[dict[str, Any]] = []
    for part in run.triaged.tables(["pair_id", "prompt", "source", "category", *_SIDES]):
        known = part.filter(pc.is_in(part["pair_id"], value_set=pa.array(list(labels), pa.string())))
        rows += [_answer(row, side) for row in known.to_pylist() for side in _SIDES]
    if not rows:
        raise UserError("evaluate.audit_labels", f"{len(labels)} labels", "none is of a pair in the run's triaged/")
    starts = range(0, len(rows), CHUNK_ROWS)
    todo = [Chunk(AUDIT, LABELLED, i, rows[at : at + CHUNK_ROWS]) for i, at in enumerate(starts)]
    for chunk in todo:
        write_part(generated / chunk.name, chunk.prompts, None)
    return todo


def _answer(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    kept = {"source": row["source"], "category": row["category"], "model": LABELLED, "response": row[side]}
    return kept | {"pair_id": f"{row['pair_id']}:{side}", "prompt": prompt_text(row["prompt"])}


def judged_labels(place: Location, labels: Mapping[str, Label]) -> list[tuple[bool, bool]]:
    """Returns what was labelled and what the judge said, of the responses judged in ``place``."""
    found = []
    for part in place.files(".parquet"):
        for row in part.read_parquet(["pair_id", "compliant"]).to_pylist():
            pair, _, side = row["pair_id"].rpartition(":")
            found.append((not getattr(labels[pair], side), bool(row["compliant"])))
    return found


def audit_figures(judged: Judged) -> dict[str, Any]:
    """Returns what metrics.json holds of the judge: responses by label, how often it was right, kappa (None for one kind)."""
    from sklearn.metrics import cohen_kappa_score

    rates = Rates.of(judged)
    truth, said = [true for true, _ in judged], [called for _, called in judged]
    return {
        "responses": len(judged),
        "compliant": rates.compliant,
        "violating": rates.violating,
        "compliant_called_so": rates.found,
        "violating_called_so": rates.caught,
        "kappa": float(cohen_kappa_score(truth, said)) if len(set(truth)) == 2 else None,
        "corrects": rates.tells_apart,
    }
