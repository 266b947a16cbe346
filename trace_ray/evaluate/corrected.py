"""Agreement corrected for the judge's errors: what the raw share says once it is known how often the judge is right.

Source: Lee et al., How to correctly report LLM-as-a-judge evaluations (arXiv 2511.21140), after Rogan and Gladen (1978): with
p the judge's share of compliant answers, q0 its specificity and q1 its sensitivity for "complies",
theta = (p + q0 - 1) / (q0 + q1 - 1). The interval takes in the sampling of the answers and of the labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from trace_ray.evaluate.tpa import Grouped
from trace_ray.pairs import MODELS

Z = NormalDist().inv_cdf(0.975)
LEAST_OF_A_KIND = 5
"""Labelled responses of each kind below which nothing is corrected."""


@dataclass(frozen=True)
class Rates:
    """What a judge said of labelled responses.

    Args:
        found: of the ``compliant`` ones, how many it called compliant; caught: of the ``violating`` ones, how many not. A
            response without a readable verdict was not called compliant.
    """

    found: int
    compliant: int
    caught: int
    violating: int

    @classmethod
    def of(cls, judged: Iterable[tuple[bool, bool]]) -> Rates:
        """Counts (truly complies, was called compliant) of each response.

        >>> Rates.of([(True, True), (True, False), (False, False)])
        Rates(found=1, compliant=2, caught=1, violating=1)
        """
        said = list(judged)
        return cls(
            found=sum(true and called for true, called in said),
            compliant=sum(true for true, _ in said),
            caught=sum(not true and not called for true, called in said),
            violating=sum(not true for true, _ in said),
        )

    @property
    def sensitivity(self) -> float:
        return self.found / self.compliant

    @property
    def specificity(self) -> float:
        return self.caught / self.violating

    @property
    def tells_apart(self) -> bool:
        """Whether anything can be corrected: enough labels of each kind, and a judge that is better than chance."""
        enough = min(self.compliant, self.violating) >= LEAST_OF_A_KIND
        return enough and self.sensitivity + self.specificity > 1


def corrected(share: float, rates: Rates) -> float:
    """Returns the corrected share in [0, 1].

    Args:
        share: of answers that the judge calls compliant; rates: of a judge that ``tells_apart``.
    """
    theta = (share + rates.specificity - 1) / (rates.specificity + rates.sensitivity - 1)
    return min(1.0, max(0.0, theta))


def corrected_interval(share: float, answers: int, rates: Rates) -> tuple[float, float]:
    """Returns the 95 % interval of ``corrected``, within [0, 1].

    The delta method on shares that are drawn towards one half, p as Agresti and Coull do and both rates by one answer of
    each kind, as at the ends no spread would be seen; with the source's shift, which moves the centre by what is known less.

    It is conservative where labels are few: drawing the rates of a good judge towards one half makes its slope look smaller
    and its errors more frequent than they are, so the interval is wider than it need be. With 80 answers and judges of
    rates 0.7 to 0.97 it covers the truth in 95.6 to 99.7 of 100 draws at 20 labels of each kind (most at the ends of the
    scale), in 95.0 to 98.1 at 60. Rates taken as they are seen would cover in as few as 80. It takes labels and answers to be
    drawn apart; where the labelled are some of the answers themselves both err alike, and it covers in 96.5 to 100.

    Args:
        answers: that ``share`` is of.
    """
    n, p = answers + Z**2, (share * answers + Z**2 / 2) / (answers + Z**2)
    q0, q1 = (rates.caught + 1) / (rates.violating + 2), (rates.found + 1) / (rates.compliant + 2)
    slope = q0 + q1 - 1
    if slope <= 0:
        return 0.0, 1.0
    theta = (p + q0 - 1) / slope
    of_q0, of_q1 = q0 * (1 - q0) / (rates.violating + 2), q1 * (1 - q1) / (rates.compliant + 2)
    spread = Z * (p * (1 - p) / n + (1 - theta) ** 2 * of_q0 + theta**2 * of_q1) ** 0.5 / slope
    centre = theta + 2 * Z**2 * (theta * of_q1 - (1 - theta) * of_q0)
    return min(1.0, max(0.0, centre - spread)), min(1.0, max(0.0, centre + spread))


def corrected_change(gained: int, lost: int, answers: int, rates: Rates) -> tuple[float, tuple[float, float]]:
    """Returns the corrected difference of two models' shares over the same prompts, and its 95 % interval, in [-1, 1].

    Both are judged by one judge, so q0 cancels but for the slope that both share.

    Args:
        gained, lost: prompts where only the second, only the first model's answer is called compliant.
    """
    q0, q1 = (rates.caught + 1) / (rates.violating + 2), (rates.found + 1) / (rates.compliant + 2)
    slope, raw = q0 + q1 - 1, (gained - lost) / answers
    change = raw / (rates.specificity + rates.sensitivity - 1)
    if slope <= 0:
        return _held(change), (-1.0, 1.0)
    n, b, c = answers + 2, gained + 0.5, lost + 0.5  # as ``compare.answers.paired_interval``
    of_raw = (b + c - (b - c) ** 2 / n) / n**2
    of_slope = q0 * (1 - q0) / (rates.violating + 2) + q1 * (1 - q1) / (rates.compliant + 2)
    centre = (b - c) / n / slope
    spread = Z * (of_raw + centre**2 * of_slope) ** 0.5 / slope
    return _held(change), (_held(centre - spread), _held(centre + spread))


def _held(value: float) -> float:
    return min(1.0, max(-1.0, value))


def corrected_metrics(by_category: Grouped, rates: Rates) -> dict[str, Any]:
    """Returns what metrics.json holds beside the raw agreement, in percent; nothing where nothing can be corrected.

    Args:
        by_category: which answers comply, by model and group (``tpa.compliance``).
    """
    if not rates.tells_apart:
        return {}
    metrics: dict[str, Any] = {}
    for model, groups in by_category.items():
        for group, values in groups.items():
            share = sum(values) / len(values)
            interval = [100 * bound for bound in corrected_interval(share, len(values), rates)]
            metrics.setdefault("tpa_corrected", {}).setdefault(model, {})[group] = 100 * corrected(share, rates)
            metrics.setdefault("tpa_corrected_interval", {}).setdefault(model, {})[group] = interval
    if set(MODELS) <= set(by_category):
        base, realigned = (by_category[model] for model in MODELS)
        metrics["tpa_corrected_change"] = {g: _change(base[g], realigned[g], rates) for g in base}
    return metrics


def _change(before: list[float], after: list[float], rates: Rates) -> dict[str, Any]:
    both = list(zip(before, after, strict=True))
    gained, lost = sum(b < a for b, a in both), sum(b > a for b, a in both)
    change, interval = corrected_change(gained, lost, len(both), rates)
    return {"change": 100 * change, "interval": [100 * bound for bound in interval]}
