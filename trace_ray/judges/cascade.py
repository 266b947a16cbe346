"""Two judges in a row: a cheap one, and a strong one only where the cheap one is unsure."""

from __future__ import annotations

from collections.abc import Sequence

from trace_ray.judges.opinion import Judge, Opinion


class CascadeJudge:
    """Asks ``first``; where its P(violates) lies in [low, high], or cannot be read, asks ``strong`` instead.

    Args:
        low, high: the uncertainty band, in probabilities of the first judge.
    """

    def __init__(self, first: Judge, strong: Judge, low: float, high: float) -> None:
        self.first, self.strong, self.low, self.high = first, strong, low, high
        self.judged = self.escalated = 0

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        opinions = list(self.first.opinions(requests, responses))
        unsure = [i for i, one in enumerate(opinions) if self._unsure(one)]
        second = self.strong.opinions([requests[i] for i in unsure], [responses[i] for i in unsure]) if unsure else []
        for i, one in zip(unsure, second, strict=True):
            opinions[i] = one
        self.judged += len(opinions)
        self.escalated += len(unsure)
        return opinions

    def _unsure(self, opinion: Opinion) -> bool:
        return opinion.p_violates is None or self.low <= opinion.p_violates <= self.high

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[tuple[str, ...]]:
        return self.strong.clauses(requests, responses)

    def counts(self) -> dict[str, int]:
        """Returns both judges' counts (the first one's under ``first_``) and how many responses were escalated."""
        first = {f"first_{name}": value for name, value in self.first.counts().items()}
        return {"cascade_judged": self.judged, "escalated": self.escalated, **first, **self.strong.counts()}
