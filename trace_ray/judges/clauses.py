"""Which clause a violating response breaks most: named by a letter, in rounds where there are more clauses than letters."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from itertools import pairwise

LETTERS = string.ascii_uppercase

Offer = tuple[str, ...]
"""Ids of the clauses of one question, the first one's letter first."""
Named = tuple[str, ...] | None
"""The id that an answer names; none where it cannot be read; None where the question failed and may be asked again."""
Ask = Callable[[Offer, Sequence[int]], Sequence[Named]]
"""Puts one question about some of the responses, given by their numbers; returns an answer to each."""


def name_clauses(ids: Sequence[str], responses: int, most: int, ask: Ask) -> list[Named]:
    """Returns the clause that each of the ``responses`` breaks most.

    Args:
        ids: of all clauses.
        most: clauses that one question can offer. Of more, each group names its own, and those are offered in their turn.
    """
    found: list[Named] = [()] * responses
    left: dict[int, Offer] = {i: tuple(ids) for i in range(responses)} if ids and most > 1 else {}
    while left:
        questions: dict[Offer, list[int]] = {}
        for i, offer in left.items():
            for group in groups(offer, most):
                questions.setdefault(group, []).append(i)
        answers: dict[int, list[Named]] = {i: [] for i in left}
        for group, which in questions.items():
            for i, named in zip(which, ask(group, which), strict=True):
                answers[i].append(named)
        for i, said in answers.items():
            found[i] = None if None in said else tuple(name for named in said for name in named or ())
        left = {i: offer for i in left for offer in [found[i] or ()] if len(offer) > 1}
    return found


def groups(offer: Offer, most: int) -> list[Offer]:
    """Returns the clauses in as few groups as hold ``most`` each, alike in size.

    >>> groups(tuple("abcde"), 4)
    [('a', 'b'), ('c', 'd', 'e')]
    """
    number = -(-len(offer) // most)
    bounds = [len(offer) * i // number for i in range(number + 1)]
    return [offer[start:stop] for start, stop in pairwise(bounds)]


def questions(clauses: int, most: int = len(LETTERS)) -> int:
    """Returns how many questions at most name one response's clause.

    >>> questions(26), questions(27), questions(700)
    (1, 3, 30)
    """
    asked = 0
    while clauses > 0:
        number = -(-clauses // most)
        asked += number
        clauses = number if number > 1 else 0
    return asked
