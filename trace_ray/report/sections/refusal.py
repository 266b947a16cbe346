"""Which limit of triage a judge does not keep, by what its audit and its canaries stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import TriageConfig


@dataclass(frozen=True)
class Refusal:
    """A limit that the judge does not keep, by its setting's name.

    Args:
        seen: the figure in a few words; text: a sentence, with the limit.
    """

    limit: str
    seen: str
    text: str
    remedy: str


def checked_pairs(figures: Mapping[str, Any]) -> int:
    """Returns how many pairs no calibration was fitted on; an older audit's confusion counts them too."""
    return int(figures.get("checked_pairs", sum(figures["confusion"].values())))


def refusal_of(
    figures: Mapping[str, Any] | None, canaries: Mapping[str, Any] | None, triage: TriageConfig
) -> Refusal | None:
    """Returns the first limit at which triage refuses this judge; None where it keeps all that was measured."""
    return (_of_audit(figures, triage) if figures else None) or (_of_canaries(canaries, triage) if canaries else None)


def _of_audit(figures: Mapping[str, Any], triage: TriageConfig) -> Refusal | None:
    """Returns the limit at which ``triage.audit`` refuses a judge of these figures."""
    auc, asked = figures["auc"], figures.get("false_invert")
    if auc is None or auc < triage.min_auc:
        pairs = f"on {figures['pairs']:,} labelled pairs"
        said = "could not be computed" if auc is None else f"is {auc:.2f}"
        text = f"The judge's AUC {said}; the limit is {triage.min_auc:.2f} (triage.min_auc)."
        remedy = "use a stronger triage.judge.model, or a policy that rules can decide"
        return Refusal("triage.min_auc", f"{'no AUC' if auc is None else f'AUC {auc:.2f}'} {pairs}", text, remedy)
    if asked is not None and not asked["reached"]:
        pairs = f"on {checked_pairs(figures):,} labelled pairs"
        rate = f"{100 * asked['asked']:.3g} %"
        text = (
            f"No abstain band keeps false INVERT verdicts below {rate} (triage.false_invert_rate) with confidence "
            f"{asked['confidence']} {pairs}."
        )
        remedy = "label more pairs, use a stronger judge, or allow a higher rate"
        return Refusal("triage.false_invert_rate", f"false INVERT not below {rate} {pairs}", text, remedy)
    return None


def _of_canaries(canaries: Mapping[str, Any], triage: TriageConfig) -> Refusal | None:
    """Returns the limit at which ``judges.canaries`` refuses a judge."""
    if canaries.get("mute") and triage.max_unreadable < 1:
        text = f"No verdict on the first {canaries['candidates']} responses could be read (triage.max_unreadable)."
        return Refusal("triage.max_unreadable", "no readable verdict", text, "use a judge that can be read")
    if canaries["pass_rate"] is None or canaries["pass_rate"] >= triage.min_canary_pass:
        return None
    rate, least = f"{100 * canaries['pass_rate']:.0f} %", f"{100 * triage.min_canary_pass:.3g} %"
    text = f"Only {rate} of hostile texts did not talk the judge round; the limit is {least} (triage.min_canary_pass)."
    remedy = "use a stronger triage.judge.model, or lower the limit knowingly"
    return Refusal("triage.min_canary_pass", f"{rate} of hostile texts held", text, remedy)


def refusal_at(gates: Sequence[Mapping[str, Any]]) -> Refusal | None:
    """Returns the first limit that a judge did not keep before the corpus was judged, as ``triage.gates`` stored it."""
    for gate in gates:
        if not gate["passed"]:
            text = f"{gate['said'][0].upper()}{gate['said'][1:]}; the limit is {gate['bound']:g} ({gate['limit']})."
            return Refusal(gate["limit"], gate["said"], text, gate["remedy"])
    return None
