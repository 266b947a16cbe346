"""What drift adds up. Without torch, so that a driver can read what its task sends."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MOST_NATS = 700.0
"""A token; the exponential of more is no number."""


@dataclass(frozen=True)
class DriftSum:
    """Sums over the response tokens of some pairs, in nats; those of two batches add up to those of both."""

    kl: float = 0.0
    nll_base: float = 0.0
    nll_realigned: float = 0.0
    tokens: int = 0
    pairs: int = 0

    def __add__(self, other: DriftSum) -> DriftSum:
        return DriftSum(
            self.kl + other.kl,
            self.nll_base + other.nll_base,
            self.nll_realigned + other.nll_realigned,
            self.tokens + other.tokens,
            self.pairs + other.pairs,
        )

    def figures(self) -> dict[str, float]:
        """Returns kl_to_base, ppl_base, ppl_realigned and drift_tokens; empty where there was no token.

        kl_to_base is the mean over tokens of KL(base || realigned), full vocabulary, in nats; a perplexity is the
        exponential of the mean negative log-probability of a token.
        """
        if not self.tokens:
            return {}
        return {
            "kl_to_base": self.kl / self.tokens,
            "ppl_base": math.exp(min(_MOST_NATS, self.nll_base / self.tokens)),
            "ppl_realigned": math.exp(min(_MOST_NATS, self.nll_realigned / self.tokens)),
            "drift_tokens": float(self.tokens),
        }
