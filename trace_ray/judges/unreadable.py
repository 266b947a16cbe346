"""How much of what a judge was asked it left without a verdict: one that cannot be read is stopped, not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trace_ray.errors import JudgeRejectedError

FIRST = 1000
"""Responses judged before the share is looked at while judging goes on: about 3 % wide either way."""


@dataclass
class Unread:
    """What one judge left without a verdict so far.

    Args:
        setting: the judge's, such as ``triage.judge``; judge: its name.
        limit_setting: names ``limit``, the share of responses that may be left, in [0, 1].
        reasons: {why, in few words: responses}.
    """

    setting: str
    judge: str
    limit_setting: str
    limit: float
    responses: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, tally: Mapping[str, Any]) -> None:
        """Adds what ``unread_tally`` returned."""
        self.responses += int(tally["responses"])
        self.reasons.update(tally["unreadable"])

    def refuse(self, *, least: int = 1) -> None:
        """Raises JudgeRejectedError where ``least`` responses are judged and more than the limit has no verdict."""
        unreadable = sum(self.reasons.values())
        if self.responses < least or unreadable <= self.limit * self.responses:
            return
        remedy = (
            f"judge {self.judge} gave no verdict on {unreadable:,} of them (limit {self.limit_setting}={self.limit:g}; "
            f"most often: {self.reasons.most_common(1)[0][0]}); use a judge that can be read, or raise the limit knowingly"
        )
        raise JudgeRejectedError(self.setting, f"{self.responses:,} responses judged", remedy)


def unread_tally(verdicts: Iterable[tuple[float | None, str | None]]) -> dict[str, Any]:
    """Returns how many of (probability, error) there are, and those without a probability by the error's first words.

    >>> unread_tally([(0.3, None), (None, "unreadable: mass 0.020 on Yes and No"), (None, "unreadable: mass 0.031 on")])
    {'responses': 3, 'unreadable': {'unreadable': 2}}
    """
    seen = list(verdicts)
    reasons = Counter((error or "no reason given").partition(":")[0] for p, error in seen if p is None)
    return {"responses": len(seen), "unreadable": dict(reasons)}
