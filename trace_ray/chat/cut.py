"""What is left out of a prompt that is too long: its oldest text, never the marks around it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

Span = tuple[int, int]
"""First token and the one behind the last."""


def spans_of(pieces: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Returns the tokens of every second piece: from the one that its first character is in to the last that ends in it.

    Args:
        pieces: of one text, in order: marks, a turn's text, marks, ..., a turn's text, marks.
        offsets: first character of each token of that text, and the one behind its last.

    >>> spans_of(["<u>", "hi you", "<a>"], [(0, 3), (3, 5), (5, 9), (9, 12)])
    [(1, 3)]
    """
    ends = list(accumulate(map(len, pieces)))
    stops = [stop for _, stop in offsets]
    spans = [
        (bisect_right(stops, begin), bisect_right(stops, end))
        for begin, end in zip(ends[:-1:2], ends[1::2], strict=True)
    ]
    return [(start, max(start, stop)) for start, stop in spans]


def cut(roles: Sequence[str], texts: Sequence[Span], excess: int) -> list[Span] | None:
    """Returns the tokens that go, in order and ``excess`` at least; None where the texts hold not so many.

    The template's marks, the begin-of-text token and a leading system turn stay. Of the other turns the oldest loses its
    text first, from its beginning; a question that has lost it goes whole, with its answer. The last question keeps its
    end. What is left reads as the template writes a dialogue that began later.

    Args:
        roles: who speaks in each turn.
        texts: the tokens of each turn's text.

    >>> cut(["user", "assistant", "user"], [(2, 6), (9, 12), (15, 20)], 3)  # three of the first question's tokens
    [(2, 5)]
    >>> cut(["user", "assistant", "user"], [(2, 6), (9, 12), (15, 20)], 7)  # the first question with its answer
    [(2, 15)]
    """
    first = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    begins = [i for i in range(first, len(roles)) if i == first or roles[i] == "user"]
    gone: list[Span] = []
    for begin, end in pairwise([*begins, len(roles)]):
        some = [(start, max(start, stop - 1)) for start, stop in texts[begin:end]]  # a token of each text stays
        if excess <= sum(stop - start for start, stop in some):
            for start, stop in some:
                taken = min(excess, stop - start)
                gone += [(start, start + taken)] if taken else []
                excess -= taken
            return gone
        if end == len(roles):
            return None
        gone.append((texts[begin][0], texts[end][0]))
        excess -= texts[end][0] - texts[begin][0]
        if excess <= 0:
            return gone
    return None


def without(ids: Sequence[int], gone: Sequence[Span]) -> list[int]:
    """Returns the tokens but for those spans, which are in order.

    >>> without([1, 2, 3, 4, 5], [(1, 2), (3, 4)])
    [1, 3, 5]
    """
    edges = [0, *(edge for span in gone for edge in span), len(ids)]
    return [i for start, stop in zip(edges[::2], edges[1::2], strict=True) for i in ids[start:stop]]
