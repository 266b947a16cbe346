"""How good is the judge, and how far to trust it: its probabilities against labels of the same responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trace_ray.config import TriageConfig
from trace_ray.errors import JudgeRejectedError, UserError
from trace_ray.judges.against_labels import area_under_curve, kappa, roc_points
from trace_ray.judges.clauses import leading
from trace_ray.judges.opinion import clauses_of
from trace_ray.pairs import categorise
from trace_ray.runs.artifacts import AUDIT_FILE, Run
from trace_ray.storage.location import Location
from trace_ray.triage.calibrate import Decision, reliability
from trace_ray.triage.fitting import Arrays, GroupFit, Labelled, false_invert_bound, fit_all
from trace_ray.triage.labels import labelled_rows, read_labels

_RAW = ["pair_id", "raw_violates_chosen", "raw_violates_rejected", "source", "clause_p_chosen"]


def audit(pairs: Sequence[Labelled], config: TriageConfig) -> dict[str, Any]:
    """Returns the judge's figures over labelled pairs and the decision that triage takes from them.

    pairs, responses, readable, auc and roc are of all pairs, the others of the ``checked_pairs`` that no calibration was
    fitted on.

    auc: area under the ROC curve of P(violates), None where the labels are of one class; roc: that curve, false_alarms
    and violations_found; accuracy and kappa at the threshold, of calibrated probabilities; agreement: share of pairs
    with the label's category; confusion: pairs by label's and judge's category; false_invert_rate: share of INVERT
    verdicts that the labels do not bear out; coverage: share of pairs not left to ABSTAIN; readable: share of responses
    with a probability; yes_bias: mean over the responses that were asked both ways, None of none; reliability and ece
    before and after calibration; decision: calibration, threshold, band, and the probabilities from which a response
    violates and below which it complies. All of it is of ``triage.judge`` alone: of a panel's
    other judges and of its decision ``panel_audit`` tells.

    Where a calibration or a band is fitted, that is done on half of the pairs (by their ids), the band and the figures
    that depend on either on the other half. groups: the same of each source or clause, where ``audit_by`` asks for it.
    """
    ordered = sorted(pairs, key=lambda pair: pair.pair_id)
    fitted = fit_all(ordered, config)
    decision, check = fitted.decision, fitted.check
    everything = Arrays.of(ordered).readable()
    figures = {
        "pairs": len(ordered),
        "checked_pairs": len(check),
        "responses": 2 * len(ordered),
        "readable": float(len(everything[0]) / (2 * len(ordered))) if ordered else 0.0,
        "yes_bias": _mean([bias for pair in ordered for bias in pair.yes_bias if bias is not None]),
        "auc": area_under_curve(*everything),
        "roc": roc_points(*everything),
        **_decided(check, decision),
        "decision": {name: value for name, value in asdict(decision).items() if name != "panel"}
        | {"violates_from": config.threshold + decision.band, "complies_below": config.threshold - decision.band},
    }
    if config.false_invert_rate > 0:
        asked = {"asked": config.false_invert_rate, "confidence": config.confidence, "reached": fitted.reached}
        figures["false_invert"] = asked | {"upper_bound": false_invert_bound(check, decision, config.confidence)}
    return figures | {"groups": [_group(*group, config) for group in fitted.groups]}


def audit_run(run: Run, config: TriageConfig, labels: Location) -> dict[str, Any]:
    """Audits a finished triage against a file of labels, stores the figures as audit.json in the run and returns them.

    Raises: UserError where no pair of the run has a label.
    """
    known = read_labels(labels)
    pairs: list[Labelled] = []
    run.triaged.manifest()
    for part in run.triaged.parts():
        rows = labelled_rows(part.read_parquet(_RAW), known)
        columns = zip(*(rows[name].to_pylist() for name in _RAW), strict=True)
        pairs += [
            Labelled(pair, known[pair], a, b, source=source or "", clause=leading(clauses_of(told)))
            for pair, a, b, source, told in columns
        ]
    if not pairs:
        raise UserError("--labels", labels.uri, "no pair_id in this file is in the run's triaged/")
    figures = audit(pairs, config)
    (run.place / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
    return figures


def _decided(pairs: Sequence[Labelled], decision: Decision) -> dict[str, Any]:
    arrays = Arrays.of(pairs)
    raw, truth = arrays.readable()
    groups = [pair.group(decision.by) for pair in pairs]
    calibrated = decision.calibrated(raw, arrays.groups_of_readable(groups))
    said = calibrated >= decision.threshold
    names = list(decision.categories(*arrays.p_N2.T, groups=groups))
    expected = [categorise(not pair.label.chosen, not pair.label.rejected).value for pair in pairs]
    inverted = [want for want, name in zip(expected, names, strict=True) if name == "INVERT"]
    table, ece = reliability(calibrated, truth)
    return {
        "accuracy": float((said == truth).mean()) if len(truth) else None,
        "kappa": kappa(truth, said),
        "agreement": float(np.mean([a == b for a, b in zip(expected, names, strict=True)])) if names else None,
        "coverage": float(np.mean([name != "ABSTAIN" for name in names])) if names else None,
        "false_invert_rate": float(np.mean([want != "INVERT" for want in inverted])) if inverted else None,
        "confusion": _confusion(expected, names),
        "ece_uncalibrated": reliability(raw, truth)[1],
        "ece": ece,
        "reliability": table,
    }


def _group(name: str, pairs: Sequence[Labelled], fit: GroupFit, config: TriageConfig) -> dict[str, Any]:
    """What is known of one group; ``own`` tells whether it has a calibration and a band of its own, ``why`` if not."""
    decision = Decision(fit.calibration, config.threshold, fit.band)
    said, held = _decided(fit.check, decision), fit.check if fit.own else pairs
    return {
        config.audit_by: name,
        "pairs": len(pairs),
        "own": fit.own,
        "why": fit.why,
        "band": fit.band,
        **{figure: said[figure] for figure in ("accuracy", "kappa", "agreement", "coverage", "false_invert_rate")},
        "upper_bound": false_invert_bound(held, decision, config.confidence),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


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
