"""What the verdicts on a block mean: category of each pair, corrections, rows to review. No Ray here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.judges.clauses import broken
from trace_ray.judges.opinion import Corrector, clauses_of
from trace_ray.pairs import (
    CLAUSE_P,
    CLAUSES,
    PAIR_SCHEMA,
    REJECT_SCHEMA,
    TRIAGED_SCHEMA,
    Category,
    categorise,
    complies,
)
from trace_ray.triage.block import SIDES, UNSETTLED, Bench
from trace_ray.triage.calibrate import CLAUSE, Decision
from trace_ray.triage.labels import Label
from trace_ray.triage.questions import prompt_texts
from trace_ray.triage.voting import combine, groups_of


@dataclass(frozen=True)
class Correction:
    """Who writes corrected responses and who judges them.

    Args:
        drawn: several are drawn for each prompt, whose turns the corrector is given as JSON (``judges.sampled``).
    """

    corrector: Corrector
    bench: Bench
    drawn: bool = False


@dataclass(frozen=True)
class Decided:
    """A block's triaged pairs (TRIAGED_SCHEMA), its refused ones (REJECT_SCHEMA) and what was counted."""

    triaged: pa.Table
    rejects: pa.Table
    counts: Counter[str]


def decide_block(
    pairs: pa.Table,
    judged: pa.Table,
    decision: Decision,
    reviewed: Mapping[str, Label],
    correction: Correction | None,
    window: tuple[int, int],
) -> Decided:
    """Returns the block decided, row for row.

    Args:
        pairs: SLOT_SCHEMA, ordered by row; judged: ``triage.block.JUDGED_SCHEMA`` of the same rows in the same order.
        reviewed: labels by pair_id that overrule the judge.
        window: the block's slots, for the verdicts on corrections.
    """
    if not judged["row"].equals(pairs["row"]):
        raise RuntimeError("verdicts and pairs of a block are of different rows")
    refused = pc.is_valid(judged["reason"])
    rejects = _rejects(pairs.filter(refused), judged.filter(refused))
    pairs, judged = pairs.filter(pc.invert(refused)), judged.filter(pc.invert(refused))
    groups = groups_of(judged if decision.by == CLAUSE else pairs, decision)
    errors = _errors(judged)
    verdict = combine(judged, decision, groups, errors)
    names, counts = verdict.names, Counter(verdict.counts)
    counts.update(_review(pairs["pair_id"], reviewed, names))
    corrected: list[str | None] = [None] * len(names)
    if correction is not None:
        corrected, tried = _correct(pairs, names, correction, decision, groups, window)
        counts.update(tried)
    columns: dict[str, Any] = {name: pairs[name] for name in PAIR_SCHEMA.names}
    for side in SIDES:
        columns[f"p_violates_{side}"] = _nullable(verdict.p[side])
        columns[f"raw_violates_{side}"] = judged[f"p_{side}"]
        columns |= _clauses(judged, side, decision.threshold)
        columns[f"rationale_{side}"] = _given(judged, f"rationale_{side}", pa.string())
    columns["category"] = pa.array(names, pa.string())
    columns["corrected"] = pa.array(corrected, pa.string())
    columns["judge_error"] = pa.array(errors, pa.string())
    triaged = pa.table([columns[name] for name in TRIAGED_SCHEMA.names], schema=TRIAGED_SCHEMA)
    pieces = zip(pairs["split"].to_pylist(), names, strict=True)
    counts.update(f"{split} {name}" for split, name in pieces)
    counts.update({"triaged": triaged.num_rows, "corrected": sum(response is not None for response in corrected)})
    counts.update(rejects["reason"].to_pylist())
    return Decided(triaged, rejects, counts)


def _given(judged: pa.Table, name: str, kind: pa.DataType) -> Any:
    """A column of the verdicts, nulls where the version that judged had none."""
    return judged[name] if name in judged.column_names else pa.nulls(judged.num_rows, kind)


def _clauses(judged: pa.Table, side: str, threshold: float) -> dict[str, Any]:
    """The broken clauses and P of each; verdicts of earlier versions hold the names alone."""
    told = _given(judged, f"clause_p_{side}", CLAUSE_P)
    if told.null_count == len(told):
        return {f"clauses_{side}": _given(judged, f"clauses_{side}", CLAUSES), f"clause_p_{side}": told}
    names = [broken(clauses_of(cell), threshold) for cell in told.to_pylist()]
    return {f"clauses_{side}": pa.array(names, CLAUSES), f"clause_p_{side}": told}


def _rejects(pairs: pa.Table, judged: pa.Table) -> pa.Table:
    columns = {
        name: judged[name] if name in ("reason", "detail") else pairs[name]
        for name in ("row", "source", "reason", "detail")
    }
    columns["stage"] = pa.array(["triage"] * pairs.num_rows, pa.string())
    return pa.table([columns[name] for name in REJECT_SCHEMA.names], schema=REJECT_SCHEMA)


def _nullable(p_N: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Array:
    return pa.array(p_N, pa.float64(), mask=np.isnan(p_N))


def _errors(judged: pa.Table) -> list[str | None]:
    sides = [judged[f"error_{side}"] for side in SIDES]
    if all(column.null_count == len(column) for column in sides):
        return [None] * judged.num_rows
    rows = zip(*(column.to_pylist() for column in sides), strict=True)
    return ["; ".join(f"{s}: {e}" for s, e in zip(SIDES, row, strict=True) if e) or None for row in rows]


def _review(ids: pa.ChunkedArray, reviewed: Mapping[str, Label], names: Any) -> dict[str, int]:
    """Decides reviewed pairs by their labels."""
    if not reviewed:
        return {}
    mine = [(i, reviewed[pair_id]) for i, pair_id in enumerate(ids.to_pylist()) if pair_id in reviewed]
    for i, label in mine:
        names[i] = categorise(not label.chosen, not label.rejected).value
    return {"reviewed": len(mine)}


def _correct(
    pairs: pa.Table,
    names: Sequence[str],
    correction: Correction,
    decision: Decision,
    groups: Sequence[str],
    window: tuple[int, int],
) -> tuple[list[str | None], dict[str, int]]:
    """y_c for PUNISH pairs, the best of those that are judged compliant; without one the pair stays as it is."""
    kept: list[str | None] = [None] * len(names)
    punished = [i for i, name in enumerate(names) if name == Category.PUNISH]
    some = pairs.take(pa.array(punished, pa.int64()))
    requests, chosen, slots = prompt_texts(some["prompt"]), some["chosen"].to_pylist(), some["slot"].to_pylist()
    asked = list(map(json.dumps, some["prompt"].to_pylist())) if correction.drawn else requests
    drafts = correction.corrector.drafts(asked, chosen)
    tried = [(i, text) for i, draft in enumerate(drafts) for text in dict.fromkeys(draft.texts)]
    where, texts = [i for i, _ in tried], [text for _, text in tried]
    opinions, _ = correction.bench.opinions([requests[i] for i in where], texts, [slots[i] for i in where], window)
    mine = [groups[i] if groups else "" for i in punished]
    compliant: list[dict[str, float]] = [{} for _ in punished]
    for (i, text), opinion in zip(tried, opinions, strict=True):
        p = opinion.p_violates if opinion is not None else None
        calibrated = None if p is None else float(decision.calibrated(np.array([p]), [mine[i]])[0])
        if calibrated is not None and complies(calibrated, decision.threshold, decision.band_of(mine[i])):
            compliant[i][text] = calibrated
    for i, found in zip(punished, compliant, strict=True):
        kept[i] = best(found)
    written, number = sum(bool(draft.texts) for draft in drafts), sum(map(bool, compliant))
    outcome = {"corrections_failed": len(punished) - written, "corrections_refused": written - number}
    if correction.drawn:
        outcome["corrections_asked"] = sum(draft.drawn for draft in drafts)
        those = zip(drafts, compliant, strict=True)
        outcome["corrections_compliant"] = sum(text in found for draft, found in those for text in draft.texts)
    unsettled = sum(not answer.final for answer in (*drafts, *opinions) if answer is not None)
    return kept, {"corrections_kept": number, **outcome} | ({UNSETTLED: unsettled} if unsettled else {})


def best(compliant: Mapping[str, float]) -> str | None:
    """Returns the compliant answer that is least likely to violate, of equals the one drawn first; None where none is.

    Args:
        compliant: {answer: P(violates)} in the order in which they were drawn.

    >>> best({"second": 0.2, "first of the best": 0.1, "no worse": 0.1})
    'first of the best'
    """
    return min(compliant, key=compliant.__getitem__, default=None)
