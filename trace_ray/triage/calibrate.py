"""Turns a judge's scores into probabilities, and a stated rate of false inversions into an abstain band."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trace_ray.triage.categories import Floats, categories_N
from trace_ray.triage.panel import Panel

SOURCE, CLAUSE = "source", "clause"
"""What pairs may be grouped by: where they come from; the clause that their chosen response most likely breaks."""
BINS = 10
_EDGE = 1e-6
_BANDS = tuple(i / 100 for i in range(50))


@dataclass(frozen=True)
class Calibration:
    """A map from a judge's P(violates) to a calibrated one; the default changes nothing.

    Args:
        kind: ``none``, ``platt`` (slope and intercept on the logit) or ``isotonic`` (points to interpolate between).
    """

    kind: str = "none"
    slope: float = 1.0
    intercept: float = 0.0
    points: list[list[float]] = field(default_factory=list)

    def __call__(self, p_N: Floats) -> Floats:
        """Returns calibrated probabilities; nan stays nan."""
        match self.kind:
            case "platt":
                return 1 / (1 + np.exp(-(self.slope * _logit(p_N) + self.intercept)))
            case "isotonic":
                x, y = np.array(self.points).T
                return np.where(np.isnan(p_N), np.nan, np.interp(np.nan_to_num(p_N), x, y))
        return p_N


def fit_calibration(kind: str, p_N: Floats, violates_N: Any) -> Calibration:
    """Returns the calibration of this kind that fits labels.

    Args:
        p_N: the judge's probabilities, none nan; violates_N: booleans, both kinds among them.
    Source: Platt (1999), his target smoothing included; isotonic regression by pool-adjacent-violators (scikit-learn).
    """
    if kind == "platt":
        from sklearn.linear_model import LogisticRegression

        bad, good = int(violates_N.sum()), int((~violates_N).sum())
        high, low = (bad + 1) / (bad + 2), 1 / (good + 2)
        target = np.where(violates_N, high, low)
        x = np.tile(_logit(p_N), 2)[:, None]
        y = np.repeat([1, 0], len(p_N))
        model = LogisticRegression(C=1e6, max_iter=1000).fit(x, y, sample_weight=np.concatenate([target, 1 - target]))
        return Calibration("platt", slope=float(model.coef_[0, 0]), intercept=float(model.intercept_[0]))
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p_N, violates_N.astype(float))
        points = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
        return Calibration("isotonic", points=[list(point) for point in points])
    return Calibration()


def reliability(p_N: Floats, violates_N: Any) -> tuple[list[dict[str, float]], float]:
    """Returns the reliability table over ten equal bins and the expected calibration error.

    Each row: from, to, responses, mean P(violates) said, share that violates. ECE = mean over responses of
    |said - share| of their bin.
    """
    # scikit-learn's calibration_curve tells neither how many responses a bin has nor which bins were empty.
    of_bin = np.minimum((p_N * BINS).astype(int), BINS - 1)
    table, error = [], 0.0
    for b in range(BINS):
        mine = of_bin == b
        if mine.any():
            said, share = float(p_N[mine].mean()), float(violates_N[mine].mean())
            table.append(
                {"from": b / BINS, "to": (b + 1) / BINS, "responses": int(mine.sum()), "said": said, "share": share}
            )
            error += float(mine.mean()) * abs(said - share)
    return table, error


@dataclass(frozen=True)
class Fit:
    """What labels make of a judge: for all pairs, or for those of one group."""

    calibration: Calibration
    band: float


@dataclass(frozen=True)
class Decision:
    """How a triage turns probabilities into categories.

    Args:
        violates_from is threshold + band, complies_below is threshold - band.
        groups: {group of pairs: its own calibration and band}; pairs of all others have those above.
        by: what groups are by, ``source`` or ``clause`` (``triage.audit_by``).
        panel: how the verdicts of several judges become one.
    """

    calibration: Calibration
    threshold: float
    band: float
    groups: Mapping[str, Fit] = field(default_factory=dict)
    by: str = SOURCE
    panel: Panel = field(default_factory=Panel)

    def categories(self, p_chosen_N: Floats, p_rejected_N: Floats, *, groups: Sequence[str] = ()) -> Any:
        """Returns the names of the categories of N pairs, from the judge's own probabilities.

        Args:
            groups: the group of each of the N pairs, where groups are to count.
        """
        calibrate = self.calibration
        names = categories_N(calibrate(p_chosen_N), calibrate(p_rejected_N), self.threshold, self.band)
        for fit, mine in self._parts(groups):
            chosen, rejected = fit.calibration(p_chosen_N[mine]), fit.calibration(p_rejected_N[mine])
            names[mine] = categories_N(chosen, rejected, self.threshold, fit.band)
        return names

    def calibrated(self, p_N: Floats, groups: Sequence[str] = ()) -> Floats:
        """Returns the calibrated probabilities of responses to N pairs."""
        found = np.array(self.calibration(p_N))
        for fit, mine in self._parts(groups):
            found[mine] = fit.calibration(p_N[mine])
        return found

    def uncalibrated(self) -> Decision:
        """Returns the same threshold and bands for a judge that labels were not compared with."""
        groups = {name: Fit(Calibration(), fit.band) for name, fit in self.groups.items()}
        return Decision(Calibration(), self.threshold, self.band, groups, self.by)

    def band_of(self, group: str) -> float:
        """Returns the abstain band of one group."""
        return self.groups[group].band if group in self.groups else self.band

    def _parts(self, groups: Sequence[str]) -> Iterator[tuple[Fit, Any]]:
        if self.groups and groups:
            named = np.array(groups, dtype=object)
            for name, fit in self.groups.items():
                yield fit, named == name


def choose_band(
    p_chosen_N: Floats,
    p_rejected_N: Floats,
    inverted_N: Any,
    threshold: float,
    least: float,
    rate: float,
    confidence: float,
) -> float | None:
    """Returns the narrowest band at which at most ``rate`` of the INVERT verdicts are false, or None where none is.

    Args:
        p_chosen_N, p_rejected_N: calibrated probabilities of pairs that the calibration was not fitted on.
        inverted_N: whether the labels say INVERT.
        least: bands below it are not tried.
        confidence: with which the rate holds on fresh pairs: the bound is Clopper and Pearson's upper limit.
    Source: fixed-sequence testing: bands are tried from the widest down, and the first that fails ends it, so that many
        tries cost no confidence (Angelopoulos et al., Learn then Test). It begins where a sample with two errors would
        pass (else none), which no label has a say in.
    """
    bands = [band for band in _BANDS[::-1] if band >= least]
    said = [categories_N(p_chosen_N, p_rejected_N, threshold, band) == "INVERT" for band in bands]
    starts = (_enough(said, rate, confidence, errors) for errors in (2, 0))
    begin = next((start for start in starts if start is not None), None)
    chosen = None
    for band, inverted in list(zip(bands, said, strict=True))[begin if begin is not None else len(bands) :]:
        if upper_bound(int((inverted & ~inverted_N).sum()), int(inverted.sum()), confidence) > rate:
            break
        chosen = band
    return chosen


def _enough(said: list[Any], rate: float, confidence: float, errors: int) -> int | None:
    """The first of the bands at which even ``errors`` wrong verdicts would keep the bound below ``rate``."""
    return next((i for i, band in enumerate(said) if upper_bound(errors, int(band.sum()), confidence) <= rate), None)


def upper_bound(wrong: int, total: int, confidence: float) -> float:
    """Returns Clopper and Pearson's one-sided upper confidence limit of a rate seen as ``wrong`` of ``total``."""
    from scipy.stats import (
        beta,
    )  # binomtest's exact interval is the same to 2e-13, takes 20 times as long, and no total of 0

    return 1.0 if wrong >= total else float(beta.ppf(confidence, wrong + 1, total - wrong))


def decision_of(stored: Mapping[str, Any]) -> Decision:
    """Returns the decision that an audit stored."""
    groups = {
        name: Fit(Calibration(**fit["calibration"]), fit["band"]) for name, fit in stored.get("groups", {}).items()
    }
    numbers = (stored["threshold"], stored["band"])
    return Decision(Calibration(**stored["calibration"]), *numbers, groups, stored.get("by", SOURCE))


def _logit(p_N: Floats) -> Floats:
    clipped = np.clip(p_N, _EDGE, 1 - _EDGE)
    return np.log(clipped / (1 - clipped))
