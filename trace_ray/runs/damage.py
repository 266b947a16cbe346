"""Whether a realigned model still speaks: drift, perplexity and diversity against limits, however well it complies.

A policy that a rule decides is met by word salad too, so agreement alone would call a wrecked model a success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_ray.config import ReportConfig

FEW_PROMPTS = 30
"""Held-out prompts below which a share says little: the 95 % interval of one half is wider than +-18 points."""


@dataclass(frozen=True)
class Damage:
    """One measure beyond its limit.

    Args:
        measure: drift, perplexity or diversity, as metrics.json holds it.
        seen: the figures in words; setting: that holds the limit.
    """

    measure: str
    seen: str
    setting: str
    limit: float

    def said(self) -> str:
        """Returns what was seen and the limit.

        >>> Damage("drift", "KL to the base 6.5 nats a token", "report.max_drift", 0.5).said()
        'KL to the base 6.5 nats a token (report.max_drift 0.5)'
        """
        return f"{self.seen} ({self.setting} {self.limit:g})"


def damages(metrics: Mapping[str, Any], limits: ReportConfig) -> list[Damage]:
    """Returns the measures of an evaluation's metrics.json that are beyond their limits; what was not measured is in none.

    A figure that is not a finite number is beyond any limit. A limit of 0 is none.
    """
    drift = metrics.get("drift") or {}
    found = []
    if limits.max_drift and drift and not float(drift["kl_to_base"]) <= limits.max_drift:
        seen = f"KL to the base {float(drift['kl_to_base']):.3g} nats a token on answers to keep"
        found.append(Damage("drift", seen, "report.max_drift", limits.max_drift))
    if limits.max_perplexity and drift:
        before, after = float(drift["ppl_base"]), float(drift["ppl_realigned"])
        if not after <= limits.max_perplexity * before:
            seen = f"perplexity of answers to keep from {before:.3g} to {after:.3g}"
            found.append(Damage("perplexity", seen, "report.max_perplexity", limits.max_perplexity))
    diversity = metrics.get("diversity") or {}
    if limits.min_diversity and diversity.get("base"):
        before, after = diversity["base"], diversity["realigned"]
        if not after >= limits.min_diversity * before:
            seen = f"word pairs that an answer does not repeat from {100 * before:.0f} to {100 * after:.0f} %"
            found.append(Damage("diversity", seen, "report.min_diversity", limits.min_diversity))
    return found
