"""What a judge says, and what a judge is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Opinion(NamedTuple):
    """What a judge says of one response.

    Args:
        p_violates: P(violates) in [0, 1], or None with the reason in ``error``.
        clauses: ids of the clauses broken, None where that was not asked.
        final: False where asking again may give another answer (an endpoint that failed).
    """

    p_violates: float | None
    error: str | None = None
    clauses: tuple[str, ...] | None = None
    final: bool = True


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


class Draft(NamedTuple):
    """A corrected response.

    Args:
        text: None where there is none.
        final: False where asking again may give one (an endpoint that failed).
    """

    text: str | None
    final: bool = True


class Judge(Protocol):
    """Anything that judges a block of responses. A judge's opinion depends on request and response alone."""

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        """Returns one opinion a response, in order."""

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> Sequence[tuple[str, ...] | None]:
        """Returns for each (violating) response the ids of the clauses it breaks; empty where that cannot be read.

        None where the judge failed for now: asking again may give another answer.
        """

    def counts(self) -> dict[str, int]:
        """Returns what the judge has used since it began: prompts, tokens, cached tokens."""


class Corrector(Protocol):
    """Anything that writes a compliant answer in place of a violating one."""

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        """Returns one draft a response, in order."""

    def counts(self) -> dict[str, int]:
        """Returns what the corrector has used since it began."""
