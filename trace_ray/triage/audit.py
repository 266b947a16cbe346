"""How good is the judge: its probabilities against labels of the same responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from trace_ray.errors import JudgeRejectedError, UserError
from trace_ray.storage import Location
from trace_ray.triage.verdict import categorise

FROM_PAIRS = "from_pairs"


class Label(NamedTuple):
    """Whether each response of a pair truly violates the policy."""

    chosen: bool
    rejected: bool


class Labelled(NamedTuple):
    """A labelled pair and what the judge said of it."""

    label: Label
    p_chosen: float | None
    p_rejected: float | None
    category: str


def read_labels(place: Location) -> dict[str, Label]:
    """Returns {pair_id: Label} from a JSONL file with pair_id, violates_chosen and violates_rejected."""
    labels: dict[str, Label] = {}
    for number, line in enumerate(place.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            labels[str(row["pair_id"])] = Label(bool(row["violates_chosen"]), bool(row["violates_rejected"]))
        except (ValueError, KeyError, TypeError):
            remedy = "a label is {pair_id, violates_chosen, violates_rejected}"
            raise UserError(f"{place.uri}:{number}", line[:80], remedy) from None
    if not labels:
        raise UserError("triage.audit_labels", place.uri, "the file holds no label")
    return labels


def label_of(pair_id: str, labels: Mapping[str, Label] | None) -> Label | None:
    """Returns the pair's label; ``labels`` None means from_pairs: the chosen complies, the rejected violates."""
    return Label(False, True) if labels is None else labels.get(pair_id)


def labelled_pairs(triaged: pa.Table, labels: Mapping[str, Label] | None) -> list[Labelled]:
    """Returns the labelled ones among triaged rows. ``labels`` as in ``label_of``."""
    columns = ("pair_id", "p_violates_chosen", "p_violates_rejected", "category")
    rows = zip(*(triaged[name].to_pylist() for name in columns), strict=True)
    found = [(label_of(pid, labels), p_chosen, p_rejected, category) for pid, p_chosen, p_rejected, category in rows]
    return [Labelled(label, *rest) for label, *rest in found if label is not None]


def audit(pairs: Sequence[Labelled], threshold: float) -> dict[str, Any]:
    """Returns the judge's figures over labelled responses, two a pair.

    auc: area under the ROC curve of P(violates), None where the labels are of one class; accuracy and kappa at the
    threshold; agreement: share of pairs with the label's category; false_invert_rate: share of INVERT verdicts that the
    labels do not bear out; readable: share of responses with a probability.
    """
    from sklearn.metrics import cohen_kappa_score, roc_auc_score

    truth = np.array([bit for one in pairs for bit in one.label], dtype=bool)
    said = np.array(
        [p if p is not None else np.nan for one in pairs for p in (one.p_chosen, one.p_rejected)], dtype=float
    )
    readable = ~np.isnan(said)
    both_classes = len(set(truth[readable])) == 2
    expected = [categorise(not one.label.chosen, not one.label.rejected).value for one in pairs]
    inverted = [want for want, one in zip(expected, pairs, strict=True) if one.category == "INVERT"]
    agree = [want == one.category for want, one in zip(expected, pairs, strict=True)]
    verdicts = said[readable] >= threshold
    return {
        "pairs": len(pairs),
        "responses": len(truth),
        "readable": float(readable.mean()) if len(truth) else 0.0,
        "auc": float(roc_auc_score(truth[readable], said[readable])) if both_classes else None,
        "accuracy": float((verdicts == truth[readable]).mean()) if readable.any() else None,
        "kappa": float(cohen_kappa_score(truth[readable], verdicts)) if both_classes else None,
        "agreement": float(np.mean(agree)) if agree else None,
        "false_invert_rate": float(np.mean([want != "INVERT" for want in inverted])) if inverted else None,
        "confusion": _confusion(expected, [one.category for one in pairs]),
    }


def _confusion(expected: Sequence[str], seen: Sequence[str]) -> dict[str, int]:
    table: dict[str, int] = {}
    for want, got in zip(expected, seen, strict=True):
        table[f"{want}->{got}"] = table.get(f"{want}->{got}", 0) + 1
    return dict(sorted(table.items()))


def refuse_bad_judge(figures: Mapping[str, Any], min_auc: float, judge: str) -> None:
    """Raises JudgeRejectedError where the judge's AUC is below ``min_auc`` or cannot be computed."""
    auc = figures["auc"]
    if auc is not None and auc >= min_auc:
        return
    verdict = "no better than chance" if auc is not None and auc < 0.6 else "too weak"
    seen = "no AUC (readable verdicts of one class only)" if auc is None else f"AUC {auc:.3f}"
    remedy = (
        f"judge {judge} is {verdict} on {figures['pairs']} labelled pairs (limit triage.min_auc={min_auc}); "
        "use a stronger triage.judge.model or a rules policy, or lower triage.min_auc knowingly"
    )
    raise JudgeRejectedError("triage audit", seen, remedy)
