"""P(breaks) of each clause: a question of its own behind the same policy and text, so that a prefix cache holds the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trace_ray.judges.opinion import Clauses, Judge, Opinion

Ask = Callable[[Sequence[str], Sequence[str], Sequence[str]], Sequence[Opinion]]
"""Puts a clause's question (its id), a request and a response at a time; each opinion's P is that of the clause."""


def ask_clauses(
    ids: Sequence[str], requests: Sequence[str], responses: Sequence[str], ask: Ask
) -> list[Clauses | None]:
    """Returns P(breaks) of each clause for each response; without those that could not be read.

    None where a question failed for now: asking again may give another answer.

    Args:
        ids: of all clauses. A response's questions are neighbours: what they share is read once.
    """
    whose = [i for i in range(len(responses)) for _ in ids]
    opinions = ask([*ids] * len(responses), [requests[i] for i in whose], [responses[i] for i in whose])
    return [_read(ids, opinions[i * len(ids) : (i + 1) * len(ids)]) for i in range(len(responses))]


def _read(ids: Sequence[str], opinions: Sequence[Opinion]) -> Clauses | None:
    if not all(opinion.final for opinion in opinions):
        return None
    return tuple(
        (name, opinion.p_violates)
        for name, opinion in zip(ids, opinions, strict=True)
        if opinion.p_violates is not None
    )


def broken(clauses: Clauses | None, threshold: float) -> list[str] | None:
    """Returns the ids of the clauses with P from ``threshold`` on, the likeliest first; None where nobody asked.

    >>> broken((("a", 0.6), ("b", 0.1), ("c", 0.9)), 0.5)
    ['c', 'a']
    """
    if clauses is None:
        return None
    return [name for name, p in sorted(clauses, key=lambda clause: -clause[1]) if p >= threshold]


def leading(clauses: Clauses | None) -> str:
    """Returns the id of the clause that is broken most likely; empty where nobody asked, and where all are surely kept.

    >>> leading((("a", 0.6), ("b", 0.1), ("c", 0.9))), leading((("a", 0.0),)), leading(None)
    ('c', '', '')
    """
    name, p = max(clauses or (), key=lambda clause: clause[1], default=("", 0.0))
    return name if p > 0 else ""


class ClausewiseJudge:
    """Makes the verdict of the clauses: a response violates as likely as it breaks the clause that it breaks most likely.

    P(violates) = max over the clauses of P(breaks), each asked with the exceptions before it. So no response violates
    without a clause that says why; what the policy's text forbids beyond its clauses is not seen.

    Args:
        judge: who is asked each clause.
        ids: of all clauses.
    """

    def __init__(self, judge: Judge, ids: Sequence[str]) -> None:
        self.judge, self.ids = judge, tuple(ids)

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        return [self._verdict(told) for told in self.judge.clauses(requests, responses)]

    def _verdict(self, clauses: Clauses | None) -> Opinion:
        if clauses is None:
            return Opinion(None, "endpoint: it failed for a clause", final=False)
        read = dict(clauses)
        unread = [name for name in self.ids if name not in read]
        if unread:
            return Opinion(None, f"unreadable: no verdict on clause {', '.join(unread)}", clauses)
        return Opinion(max(read.values()), clauses=clauses)

    def clauses(self, requests: Sequence[str], responses: Sequence[str]) -> Sequence[Clauses | None]:
        return self.judge.clauses(requests, responses)

    def counts(self) -> dict[str, int]:
        return self.judge.counts()
