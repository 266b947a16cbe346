"""How good is the judge, and how far to trust it: its probabilities against labels of the same responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from trace_ray.config import TriageConfig
from trace_ray.errors import JudgeRejectedError, UserError
from trace_ray.pairs import categorise
from trace_ray.runs.artifacts import AUDIT_FILE, Run
from trace_ray.storage.location import Location
from trace_ray.triage.calibrate import Calibration, Decision, choose_band, fit_calibration, reliability, upper_bound
from trace_ray.triage.labels import Label, labelled_rows, read_labels

_LEAST_OF_A_KIND = 5
"""Labelled responses of each kind needed to fit a calibration."""
_ROC_POINTS = 200
"""Most points of the stored curve: audit.json stays small, and no eye sees the difference."""


class Labelled(NamedTuple):
    """A labelled pair and what the judge said of it, uncalibrated."""

    pair_id: str
    label: Label
    p_chosen: float | None
    p_rejected: float | None


@dataclass(frozen=True)
class _Arrays:
    """Labelled pairs as arrays: N pairs, 2N responses."""

    p_N2: np.ndarray[Any, np.dtype[np.float64]]
    violates_N2: Any

    @classmethod
    def of(cls, pairs: Sequence[Labelled]) -> _Arrays:
        said = [[p if p is not None else np.nan for p in (pair.p_chosen, pair.p_rejected)] for pair in pairs]
        truth = [list(pair.label) for pair in pairs]
        return cls(np.array(said, dtype=float).reshape(-1, 2), np.array(truth, dtype=bool).reshape(-1, 2))

    def readable(self) -> tuple[Any, Any]:
        kept = ~np.isnan(self.p_N2)
        return self.p_N2[kept], self.violates_N2[kept]


def audit(pairs: Sequence[Labelled], config: TriageConfig) -> dict[str, Any]:
    """Returns the judge's figures over labelled pairs and the decision that triage takes from them.

    pairs, responses, readable, auc and roc are of all pairs, the others of the ``checked_pairs`` that no calibration was
    fitted on.

    auc: area under the ROC curve of P(violates), None where the labels are of one class; roc: that curve, false_alarms
    and violations_found; accuracy and kappa at the threshold, of calibrated probabilities; agreement: share of pairs
    with the label's category; confusion: pairs by label's and judge's category; false_invert_rate: share of INVERT
    verdicts that the labels do not bear out; coverage: share of pairs not left to ABSTAIN; readable: share of responses
    with a probability; reliability and ece before and after calibration; decision: calibration, threshold, band, and
    the probabilities from which a response violates and below which it complies.

    Where a calibration or a band is fitted, that is done on half of the pairs (by their ids), the band and the figures
    that depend on either on the other half.
    """
    ordered = sorted(pairs, key=lambda pair: pair.pair_id)
    calibrated, banded = config.calibration != "none", config.false_invert_rate > 0
    fit, check = (ordered[::2], ordered[1::2]) if calibrated and len(ordered) > 1 else (ordered, ordered)
    calibration = _calibration(config.calibration, fit)
    band = _band(config, calibration, check) if banded else config.abstain_band
    decision = Decision(calibration, config.threshold, band if band is not None else config.abstain_band)
    everything = _Arrays.of(ordered).readable()
    figures = {
        "pairs": len(ordered),
        "checked_pairs": len(check),
        "responses": 2 * len(ordered),
        "readable": float(len(everything[0]) / (2 * len(ordered))) if ordered else 0.0,
        "auc": _auc(*everything),
        "roc": _roc(*everything),
        **_decided(check, decision),
        "decision": asdict(decision)
        | {"violates_from": config.threshold + decision.band, "complies_below": config.threshold - decision.band},
    }
    if banded:
        asked = {"asked": config.false_invert_rate, "confidence": config.confidence, "reached": band is not None}
        figures["false_invert"] = asked | {"upper_bound": _false_invert_bound(check, decision, config.confidence)}
    return figures


def audit_run(run: Run, config: TriageConfig, labels: Location) -> dict[str, Any]:
    """Audits a finished triage against a file of labels, stores the figures as audit.json in the run and returns them.

    Raises: UserError where no pair of the run has a label.
    """
    known = read_labels(labels)
    pairs: list[Labelled] = []
    run.triaged.manifest()
    for part in run.triaged.parts():
        rows = labelled_rows(part.read_parquet(["pair_id", "raw_violates_chosen", "raw_violates_rejected"]), known)
        columns = zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True)
        pairs += [Labelled(pair, known[pair], chosen, rejected) for pair, chosen, rejected in columns]
    if not pairs:
        raise UserError("--labels", labels.uri, "no pair_id in this file is in the run's triaged/")
    figures = audit(pairs, config)
    (run.place / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
    return figures


def _decided(pairs: Sequence[Labelled], decision: Decision) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score

    arrays = _Arrays.of(pairs)
    raw, truth = arrays.readable()
    calibrated = decision.calibration(raw)
    said = calibrated >= decision.threshold
    names = list(decision.categories(*arrays.p_N2.T))
    expected = [categorise(not pair.label.chosen, not pair.label.rejected).value for pair in pairs]
    inverted = [want for want, name in zip(expected, names, strict=True) if name == "INVERT"]
    table, ece = reliability(calibrated, truth)
    return {
        "accuracy": float((said == truth).mean()) if len(truth) else None,
        "kappa": float(cohen_kappa_score(truth, said)) if len(set(truth.tolist())) == 2 else None,
        "agreement": float(np.mean([a == b for a, b in zip(expected, names, strict=True)])) if names else None,
        "coverage": float(np.mean([name != "ABSTAIN" for name in names])) if names else None,
        "false_invert_rate": float(np.mean([want != "INVERT" for want in inverted])) if inverted else None,
        "confusion": _confusion(expected, names),
        "ece_uncalibrated": reliability(raw, truth)[1],
        "ece": ece,
        "reliability": table,
    }


def _auc(p: Any, truth: Any) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, p)) if len(set(truth.tolist())) == 2 else None


def _roc(p: Any, truth: Any) -> dict[str, list[float]] | None:
    from sklearn.metrics import roc_curve

    if len(set(truth.tolist())) < 2:
        return None
    false_alarms, found, _ = roc_curve(truth, p)
    kept = np.unique(np.linspace(0, len(found) - 1, _ROC_POINTS).astype(int))
    return {"false_alarms": false_alarms[kept].tolist(), "violations_found": found[kept].tolist()}


def without_curve(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an audit's figures for a manifest or a terminal; the curve's points are in audit.json."""
    return {name: value for name, value in figures.items() if name != "roc"}


def _calibration(kind: str, pairs: Sequence[Labelled]) -> Calibration:
    p, truth = _Arrays.of(pairs).readable()
    if kind == "none":
        return Calibration()
    if min(int(truth.sum()), int((~truth).sum())) < _LEAST_OF_A_KIND:
        seen = f"{int(truth.sum())} violating and {int((~truth).sum())} compliant labelled responses to fit on"
        raise JudgeRejectedError("triage.calibration", seen, f"label at least {_LEAST_OF_A_KIND} of each, or use none")
    return fit_calibration(kind, p, truth)


def _band(config: TriageConfig, calibration: Calibration, pairs: Sequence[Labelled]) -> float | None:
    arrays = _Arrays.of(pairs)
    inverted = arrays.violates_N2[:, 0] & ~arrays.violates_N2[:, 1]
    p_chosen, p_rejected = calibration(arrays.p_N2).T
    limits = (config.threshold, config.abstain_band, config.false_invert_rate, config.confidence)
    return choose_band(p_chosen, p_rejected, inverted, *limits)


def _false_invert_bound(pairs: Sequence[Labelled], decision: Decision, confidence: float) -> float:
    arrays = _Arrays.of(pairs)
    said = decision.categories(*arrays.p_N2.T) == "INVERT"
    false = said & ~(arrays.violates_N2[:, 0] & ~arrays.violates_N2[:, 1])
    return upper_bound(int(false.sum()), int(said.sum()), confidence)


def _confusion(expected: Sequence[str], seen: Sequence[str]) -> dict[str, int]:
    table: dict[str, int] = {}
    for want, got in zip(expected, seen, strict=True):
        table[f"{want}->{got}"] = table.get(f"{want}->{got}", 0) + 1
    return dict(sorted(table.items()))


def refuse_unreached_rate(figures: Mapping[str, Any]) -> None:
    """Raises JudgeRejectedError where a false-invert rate was asked for that no abstain band reaches."""
    asked = figures.get("false_invert")
    if asked is not None and not asked["reached"]:
        remedy = (
            f"no abstain band keeps false INVERT verdicts below it with confidence {asked['confidence']} on "
            f"{figures['checked_pairs']} labelled pairs; label more pairs, use a stronger judge, or allow a higher rate"
        )
        raise JudgeRejectedError("triage.false_invert_rate", asked["asked"], remedy)
