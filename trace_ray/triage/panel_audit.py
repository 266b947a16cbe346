"""A panel against labels: each of its judges by itself, and what they decide together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import TriageConfig, judge_name
from trace_ray.judges.gates import Gate
from trace_ray.pairs import categorise
from trace_ray.storage.location import Location
from trace_ray.triage.audit import audit
from trace_ray.triage.block import OTHERS
from trace_ray.triage.calibrate import Decision
from trace_ray.triage.fitting import Labelled
from trace_ray.triage.gates import audit_gates
from trace_ray.triage.labels import Label, label_of, labelled_rows
from trace_ray.triage.voting import combine, groups_of

Labels = Mapping[str, Label] | None
"""By pair_id; None = from_pairs."""
_TOLD = ("pairs", "responses", "readable", "auc", "accuracy", "kappa", "agreement", "coverage", "false_invert_rate")


def members_audited(triage: TriageConfig, labelled: Callable[[str], Sequence[Labelled]]) -> dict[str, Any]:
    """Returns {second_judge | third_judge: figures of ``audit``} of the other judges, uncalibrated, at triage's threshold.

    Args:
        labelled: the labelled pairs with what the judge ``second`` or ``third`` said of them. A third one that breaks ties
            alone is measured on the pairs that it was asked of.
    """
    plain = replace(triage, calibration="none", false_invert_rate=0.0, audit_by="all")
    found = {}
    for name in OTHERS:
        if getattr(triage, f"{name}_judge") is not None:
            pairs = labelled(name)
            ties = name == "third" and triage.third_asked == "ties"
            said = [pair for pair in pairs if not ties or (pair.p_chosen, pair.p_rejected) != (None, None)]
            figures = audit(said, plain)
            found[f"{name}_judge"] = {"ties_alone": ties} | {figure: figures[figure] for figure in _TOLD}
    return found


def member_gates(triage: TriageConfig, members: Mapping[str, Mapping[str, Any]]) -> list[Gate]:
    """Returns the gates of ``audit_gates`` of each other judge that was asked of every labelled pair, by its name."""
    whole = {name: figures for name, figures in members.items() if not figures["ties_alone"]}
    return [
        gate
        for name, figures in whole.items()
        for gate in audit_gates(triage, figures, f"triage.{name}", judge_name(getattr(triage, name)))
    ]


def count_decided(verdicts: Sequence[Location], labels: Labels, decision: Decision) -> Counter[tuple[str, str]]:
    """Returns how many labelled pairs of files of verdicts have (the label's category, the panel's)."""
    counts: Counter[tuple[str, str]] = Counter()
    for place in verdicts:
        counts.update(_decided(place.read_parquet(), labels, decision))
    return counts


def _decided(judged: pa.Table, labels: Labels, decision: Decision) -> list[tuple[str, str]]:
    rows = labelled_rows(judged.filter(pc.is_null(judged["reason"])), labels)
    if not rows.num_rows:
        return []
    names = combine(rows, decision, groups_of(rows, decision), [None] * rows.num_rows).names
    truth = [label_of(pair, labels) for pair in rows["pair_id"].to_pylist()]
    wanted = [categorise(not label.chosen, not label.rejected).value for label in truth]
    return list(zip(wanted, map(str, names), strict=True))


def panel_figures(counts: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Returns what ``count_decided`` says of the panel's decision, with the figures' names of ``audit``."""
    pairs = sum(counts.values())
    right = sum(number for (want, got), number in counts.items() if want == got)
    left = sum(number for (_, got), number in counts.items() if got == "ABSTAIN")
    inverted = sum(number for (_, got), number in counts.items() if got == "INVERT")
    false = sum(number for (want, got), number in counts.items() if got == "INVERT" != want)
    return {
        "pairs": pairs,
        "agreement": right / pairs if pairs else None,
        "coverage": 1 - left / pairs if pairs else None,
        "false_invert_rate": false / inverted if inverted else None,
        "confusion": {f"{want}->{got}": number for (want, got), number in sorted(counts.items())},
    }
