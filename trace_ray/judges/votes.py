"""P(violates) as a share of sampled answers: bare verdicts, or verdicts behind their reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from trace_ray.judges.opinion import Opinion
from trace_ray.judges.prompt import spoken

_THOUGHTS_END = "</think>"


class Vote(NamedTuple):
    """One sampled answer; ``violates`` None where it cannot be read."""

    violates: bool | None
    clauses: frozenset[str] = frozenset()
    rationale: str = ""


def reason_schema(clauses: Sequence[str], characters: int = 0) -> dict[str, Any]:
    """Returns the JSON schema of an answer with reasons.

    Args:
        clauses: ids that it may name; empty = it is not asked for them.
        characters: of the reasons at most, so that the verdict behind them is written too; 0 = no limit.
    """
    reasoning = {"type": "string"} | ({"maxLength": characters} if characters else {})
    fields: dict[str, Any] = {"reasoning": reasoning, "violates": {"type": "boolean"}}
    if clauses:
        fields["clauses"] = {"type": "array", "items": {"type": "string", "enum": list(clauses)}}
        fields["clauses"]["maxItems"] = len(clauses)  # a small model names them until its tokens are gone
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def read_reasons(text: str | None) -> Vote:
    """Returns what an answer with reasons says; thoughts before it are no part of it. None: it did not end.

    >>> read_reasons('<think>Hm {}</think> {"reasoning": "It greets.", "violates": true, "clauses": ["a"]}')
    Vote(violates=True, clauses=frozenset({'a'}), rationale='It greets.')
    """
    if text is None:
        return Vote(None)
    answer = text.rpartition(_THOUGHTS_END)[2]
    try:
        said = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])
    except ValueError:
        return Vote(None)
    violates, clauses, reasoning = said.get("violates"), said.get("clauses"), said.get("reasoning")
    if not isinstance(violates, bool):
        return Vote(None)
    named = (
        frozenset(clause for clause in clauses if isinstance(clause, str)) if isinstance(clauses, list) else frozenset()
    )
    return Vote(violates, named, reasoning.strip() if isinstance(reasoning, str) else "")


def read_word(text: str | None, violates: Sequence[str], complies: Sequence[str]) -> Vote:
    """Returns what a bare verdict says, by its first word.

    >>> read_word("<think>Hm.</think> No, it does not.", ["Yes"], ["No"]).violates
    False
    """
    words = (text or "").rpartition(_THOUGHTS_END)[2].split()
    word = words[0].strip(".,:;!*\"'`").lower() if words else ""
    said = {True: spoken(violates), False: spoken(complies)}
    return Vote(next((verdict for verdict, known in said.items() if word in known), None))


def opinion_of_votes(votes: Sequence[Vote], least: float, clauses: Sequence[str] = ()) -> Opinion:
    """Returns the opinion in several votes of one response: P(violates) = share of the readable ones that say so.

    Its rationale is that of the first vote on the side of the most (a tie: of those who say that it violates).

    Args:
        least: share of the votes that must be readable.
        clauses: ids that the votes were asked for: P(breaks) = share of the readable votes that name the clause.
    """
    read = [vote for vote in votes if vote.violates is not None]
    if not read or len(read) < least * len(votes):
        return Opinion(None, f"unreadable: {len(votes) - len(read)} of {len(votes)} answers give no verdict")
    p = sum(vote.violates is True for vote in read) / len(read)
    reasons = [vote.rationale for vote in read if vote.violates is (p >= 0.5) and vote.rationale]
    told = (
        tuple((name, sum(name in vote.clauses for vote in read) / len(read)) for name in clauses) if clauses else None
    )
    return Opinion(p, clauses=told, rationale=reasons[0] if reasons else None)
