"""What labels make of a judge's probabilities: a calibration and an abstain band, for all pairs and by their group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from trace_ray.config import TriageConfig
from trace_ray.errors import JudgeRejectedError
from trace_ray.triage.calibrate import CLAUSE, Calibration, Decision, Fit, choose_band, fit_calibration, upper_bound
from trace_ray.triage.labels import Label

_LEAST_OF_A_KIND = 5
"""Labelled responses of each kind needed to fit a calibration."""


class Labelled(NamedTuple):
    """A labelled pair and what the judge said of it, uncalibrated.

    Args:
        yes_bias: of its responses, see ``Opinion``; clause: that its chosen response most likely breaks.
    """

    pair_id: str
    label: Label
    p_chosen: float | None
    p_rejected: float | None
    yes_bias: tuple[float | None, ...] = ()
    source: str = ""
    clause: str = ""

    def group(self, by: str) -> str:
        """Returns its group by ``source`` or ``clause``."""
        return self.clause if by == CLAUSE else self.source


@dataclass(frozen=True)
class Arrays:
    """Labelled pairs as arrays: N pairs, 2N responses."""

    p_N2: np.ndarray[Any, np.dtype[np.float64]]
    violates_N2: Any

    @classmethod
    def of(cls, pairs: Sequence[Labelled]) -> Arrays:
        said = [[p if p is not None else np.nan for p in (pair.p_chosen, pair.p_rejected)] for pair in pairs]
        truth = [list(pair.label) for pair in pairs]
        return cls(np.array(said, dtype=float).reshape(-1, 2), np.array(truth, dtype=bool).reshape(-1, 2))

    def readable(self) -> tuple[Any, Any]:
        kept = ~np.isnan(self.p_N2)
        return self.p_N2[kept], self.violates_N2[kept]

    def groups_of_readable(self, groups: Sequence[str]) -> list[str]:
        """Returns the pair's group of each response that ``readable`` gives."""
        kept = ~np.isnan(self.p_N2)
        return [group for group, both in zip(groups, kept, strict=True) for p in both if p]


@dataclass(frozen=True)
class GroupFit:
    """One group's calibration and band, and the pairs that they were not fitted on.

    Args:
        own: whether they are the group's own; why: what it lacks for that.
    """

    calibration: Calibration
    band: float
    check: Sequence[Labelled]
    own: bool
    why: str = ""


@dataclass(frozen=True)
class Fitted:
    """The decision over all labelled pairs.

    Args:
        check: the pairs that no calibration was fitted on; reached: whether a band keeps the rate that is asked for.
        groups: (name, its pairs, its fit), empty unless they are asked for.
    """

    decision: Decision
    check: Sequence[Labelled]
    reached: bool
    groups: Sequence[tuple[str, Sequence[Labelled], GroupFit]] = ()


def fit_all(ordered: Sequence[Labelled], config: TriageConfig) -> Fitted:
    """Returns what the labels make of the judge.

    Where a calibration or a band is fitted, that is done on every second of the pairs, the band on the others.

    Args:
        ordered: labelled pairs by their ids.
    Raises: JudgeRejectedError where a calibration is asked for and the labels do not suffice for one.
    """
    fit, check = _halves(ordered, config)
    lacking = _lacking(fit, config)
    if lacking:
        remedy = f"label at least {_LEAST_OF_A_KIND} of each, or use none"
        raise JudgeRejectedError("triage.calibration", lacking, remedy)
    calibration = _calibration(config.calibration, fit)
    band = _band(config, calibration, check) if config.false_invert_rate > 0 else config.abstain_band
    decision = Decision(calibration, config.threshold, band if band is not None else config.abstain_band)
    if (by := config.audit_by) == "all":
        return Fitted(decision, check, band is not None)
    groups = []
    for name in sorted({pair.group(by) for pair in ordered}):
        mine = [pair for pair in ordered if pair.group(by) == name]
        groups.append((name, mine, _group_fit(mine, decision, config)))
    own = {name: Fit(group.calibration, group.band) for name, _, group in groups if group.own}
    return Fitted(replace(decision, groups=own, by=by), check, band is not None, groups)


def _group_fit(pairs: Sequence[Labelled], pooled: Decision, config: TriageConfig) -> GroupFit:
    """Its own where its labels suffice: for the calibration, and for a band that keeps the rate asked for."""
    fit, check = _halves(pairs, config)
    why = _lacking(fit, config)
    calibration = Calibration() if why else _calibration(config.calibration, fit)
    band: float | None = config.abstain_band
    if not why and config.false_invert_rate > 0:
        band = _band(config, calibration, check)
        why = "" if band is not None else f"no band keeps the rate on its {len(check)} pairs"
    if why or band is None:
        return GroupFit(pooled.calibration, pooled.band, pairs, own=False, why=why)
    return GroupFit(calibration, band, check, own=True)


def _halves(ordered: Sequence[Labelled], config: TriageConfig) -> tuple[Sequence[Labelled], Sequence[Labelled]]:
    return (ordered[::2], ordered[1::2]) if config.calibration != "none" and len(ordered) > 1 else (ordered, ordered)


def _lacking(pairs: Sequence[Labelled], config: TriageConfig) -> str:
    """What is there where it does not suffice to fit a calibration on."""
    _, truth = Arrays.of(pairs).readable()
    bad, good = int(truth.sum()), int((~truth).sum())
    if config.calibration == "none" or min(bad, good) >= _LEAST_OF_A_KIND:
        return ""
    return f"{bad} violating and {good} compliant labelled responses to fit on"


def _calibration(kind: str, pairs: Sequence[Labelled]) -> Calibration:
    return fit_calibration(kind, *Arrays.of(pairs).readable())


def _band(config: TriageConfig, calibration: Calibration, pairs: Sequence[Labelled]) -> float | None:
    arrays = Arrays.of(pairs)
    inverted = arrays.violates_N2[:, 0] & ~arrays.violates_N2[:, 1]
    p_chosen, p_rejected = calibration(arrays.p_N2).T
    limits = (config.threshold, config.abstain_band, config.false_invert_rate, config.confidence)
    return choose_band(p_chosen, p_rejected, inverted, *limits)


def false_invert_bound(pairs: Sequence[Labelled], decision: Decision, confidence: float) -> float:
    """Returns the upper confidence limit of the share of INVERT verdicts that the labels do not bear out."""
    arrays = Arrays.of(pairs)
    said = decision.categories(*arrays.p_N2.T, groups=[pair.group(decision.by) for pair in pairs]) == "INVERT"
    false = said & ~(arrays.violates_N2[:, 0] & ~arrays.violates_N2[:, 1])
    return upper_bound(int(false.sum()), int(said.sum()), confidence)
