"""What a judge says, and what a judge is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Clauses = tuple[tuple[str, float], ...]
"""(Id, P(breaks) in [0, 1]) of the clauses that a response was judged by, in the policy's order."""


def clauses_of(cell: Sequence[Mapping[str, Any]] | None) -> Clauses | None:
    """Returns what a cell of a column of kind ``pairs.CLAUSE_P`` holds."""
    return None if cell is None else tuple((row["clause"], row["p"]) for row in cell)


class Opinion(NamedTuple):
    """What a judge says of one response.

    Args:
        p_violates: P(violates) in [0, 1], or None with the reason in ``error``.
        clauses: P(breaks) of each clause that could be read, None where that was not asked.
        final: False where asking again may give another answer (an endpoint that failed).
        rationale: why, in the judge's words, where it gave reasons.
        yes_bias: how much likelier than its contrary a Yes was, whatever the question: half of P(Yes) to "does it violate"
            plus P(Yes) to "does it comply" less 1. None where one of both was asked.
    """

    p_violates: float | None
    error: str | None = None
    clauses: Clauses | None = None
    final: bool = True
    rationale: str | None = None
    yes_bias: float | None = None


def opinion_of(yes: float, no: float, min_mass: float) -> Opinion:
    """Returns the opinion in a first answer token: unreadable, never guessed, where Yes and No have too little mass.

    Args:
        yes, no: probability of a Yes token (it violates) and of a No token, together at most 1.
        min_mass: what both must have together.
    """
    mass = yes + no
    if mass < min_mass or mass <= 0:
        return Opinion(None, f"unreadable: mass {mass:.3f} on Yes and No")
    return Opinion(yes / mass)


def contrary(opinion: Opinion) -> Opinion:
    """Returns the opinion whether a response violates, from one whether it complies."""
    p = opinion.p_violates
    return opinion if p is None else opinion._replace(p_violates=1 - p)


def both_ways(violates: Opinion, complies: Opinion) -> Opinion:
    """Returns the mean of what a judge says to a question and to its contrary.

    Args:
        complies: P is that of a Yes to "does it comply".

    >>> both_ways(Opinion(0.75), Opinion(0.5)).p_violates, both_ways(Opinion(0.75), Opinion(0.5)).yes_bias
    (0.625, 0.125)
    """
    yes, other = violates.p_violates, complies.p_violates
    if yes is None or other is None:
        return violates if yes is None else complies
    return violates._replace(
        p_violates=(yes + 1 - other) / 2, yes_bias=(yes + other - 1) / 2, final=violates.final and complies.final
    )


class Draft(NamedTuple):
    """A corrected response, or several, of which the best is kept.

    Args:
        text: None where there is none.
        final: False where asking again may give one (an endpoint that failed).
        others: beside ``text``, in the order in which they were drawn.
        drawn: answers that were asked for, those included that are none.
    """

    text: str | None
    final: bool = True
    others: tuple[str, ...] = ()
    drawn: int = 1

    @property
    def texts(self) -> tuple[str, ...]:
        """All that may be kept, in order."""
        return (self.text, *self.others) if self.text else ()


class Judge(Protocol):
    """Anything that judges a block of responses. A judge's opinion depends on request and response alone."""

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        """Returns one opinion a response, in order."""

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> Sequence[Clauses | None]:
        """Returns for each response P(breaks) of each clause, without those that cannot be read.

        None where the judge failed for now: asking again may give another answer.
        """

    def counts(self) -> dict[str, int]:
        """Returns what the judge has used since it began: prompts, tokens, cached tokens."""


def preparing(judge: Judge) -> Callable[[Sequence[str], Sequence[str]], None] | None:
    """Returns what readies a judge for its next question while it answers another, if it has such a ``prepare``."""
    found: Callable[[Sequence[str], Sequence[str]], None] | None = getattr(judge, "prepare", None)
    return found


class Corrector(Protocol):
    """Anything that writes a compliant answer in place of a violating one."""

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        """Returns one draft a response, in order."""

    def counts(self) -> dict[str, int]:
        """Returns what the corrector has used since it began."""
