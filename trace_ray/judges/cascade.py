"""Two judges in a row: a cheap one, and a strong one only where the cheap one is unsure.

``CascadeJudge`` holds both; ``FirstOfCascade`` is the cheap one alone, where each judges in a pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from trace_ray.judges.opinion import Clauses, Judge, Opinion, preparing


def unsure(opinion: Opinion, low: float, high: float) -> bool:
    """Returns whether the strong judge is asked too: P(violates) lies in [low, high], or cannot be read.

    >>> unsure(Opinion(0.1), 0.1, 0.9), unsure(Opinion(0.95), 0.1, 0.9), unsure(Opinion(None), 0.1, 0.9)
    (True, False, True)
    """
    return opinion.p_violates is None or low <= opinion.p_violates <= high


class CascadeJudge:
    """Asks ``first``; where its P(violates) lies in [low, high], or cannot be read, asks ``strong`` instead.

    Args:
        low, high: the uncertainty band, in probabilities of the first judge.
    """

    def __init__(self, first: Judge, strong: Judge, low: float, high: float) -> None:
        self.first, self.strong, self.low, self.high = first, strong, low, high
        self.judged = self.escalated = 0
        self.sure: set[tuple[str, str]] = set()
        """(Request, response) that ``first`` decided alone, of the last call of ``opinions``."""

    def prepare(self, requests: Sequence[str], responses: Sequence[str]) -> None:
        """As the first judge's, if it has one."""
        if (prepare := preparing(self.first)) is not None:
            prepare(requests, responses)

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        opinions = list(self.first.opinions(requests, responses))
        unsure = [i for i, opinion in enumerate(opinions) if self._unsure(opinion)]
        second = self.strong.opinions([requests[i] for i in unsure], [responses[i] for i in unsure]) if unsure else []
        for i, stronger in zip(unsure, second, strict=True):
            opinions[i] = stronger
        self.sure = set(zip(requests, responses, strict=True)) - {(requests[i], responses[i]) for i in unsure}
        self.judged += len(opinions)
        self.escalated += len(unsure)
        return opinions

    def _unsure(self, opinion: Opinion) -> bool:
        return unsure(opinion, self.low, self.high)

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Clauses | None]:
        """As ``Judge.clauses``, each by the judge that decided it in the last ``opinions``: a question is no escalation."""
        named: list[Clauses | None] = [()] * len(responses)
        asked = list(zip(requests, responses, strict=True))
        for judge, mine in ((self.first, True), (self.strong, False)):
            which = [i for i, question in enumerate(asked) if (question in self.sure) == mine]
            said = judge.clauses([requests[i] for i in which], [responses[i] for i in which]) if which else ()
            for i, clauses in zip(which, said, strict=True):
                named[i] = clauses
        return named

    def counts(self) -> dict[str, int]:
        """Returns both judges' counts (the first one's under ``first_``) and how many responses were escalated."""
        first = {f"first_{name}": value for name, value in self.first.counts().items()}
        return {"cascade_judged": self.judged, "escalated": self.escalated, **first, **self.strong.counts()}


class FirstOfCascade:
    """The first judge of a cascade alone; the strong one is asked in a later pass about what this one is unsure of.

    Args:
        low, high: as of ``CascadeJudge``; with both passes' counts together one has that one's.
    """

    def __init__(self, first: Judge, low: float, high: float) -> None:
        self.first, self.low, self.high = first, low, high
        self.judged = self.escalated = 0
        self.open: set[tuple[str, str]] = set()
        """(Request, response) that ``first`` is unsure of, of the last call of ``opinions``."""

    def prepare(self, requests: Sequence[str], responses: Sequence[str]) -> None:
        """As the first judge's, if it has one."""
        if (prepare := preparing(self.first)) is not None:
            prepare(requests, responses)

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        opinions = list(self.first.opinions(requests, responses))
        asked = list(zip(requests, responses, strict=True))
        which = [i for i, opinion in enumerate(opinions) if unsure(opinion, self.low, self.high)]
        self.open = {asked[i] for i in which}
        self.judged += len(opinions)
        self.escalated += len(which)
        return opinions

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> list[Clauses | None]:
        """As ``Judge.clauses`` of what ``first`` decided in the last ``opinions``; none of the rest, without asking."""
        named: list[Clauses | None] = [()] * len(responses)
        which = [i for i, question in enumerate(zip(requests, responses, strict=True)) if question not in self.open]
        said = self.first.clauses([requests[i] for i in which], [responses[i] for i in which]) if which else ()
        for i, clauses in zip(which, said, strict=True):
            named[i] = clauses
        return named

    def counts(self) -> dict[str, int]:
        first = {f"first_{name}": value for name, value in self.first.counts().items()}
        return {"cascade_judged": self.judged, "escalated": self.escalated, **first}
