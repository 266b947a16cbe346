"""P by clause, whoever is asked, and the verdict that is made of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trace_ray.judges.clauses import ClausewiseJudge, ask_clauses, broken
from trace_ray.judges.opinion import Clauses, Opinion

IDS = [f"c{i}" for i in range(40)]


def test_each_clause_of_each_response_is_asked_once_and_neighbours_share_their_text() -> None:
    asked: list[tuple[str, str, str]] = []

    def ask(names: Sequence[str], requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        asked.extend(zip(names, requests, responses, strict=True))
        return [Opinion((int(name[1:]) + int(text)) / 100) for name, text in zip(names, responses, strict=True)]

    told = ask_clauses(IDS, ["q", "r", "s"], ["1", "2", "3"], ask)
    assert told == [tuple((f"c{i}", (i + n) / 100) for i in range(40)) for n in (1, 2, 3)]
    assert asked == [(name, q, n) for q, n in zip("qrs", "123", strict=True) for name in IDS]
    assert ask_clauses([], ["q"], ["1"], ask) == [()]
    assert ask_clauses(IDS, [], [], ask) == []


def test_an_unread_clause_is_left_out_and_a_failed_one_leaves_all_open() -> None:
    def ask(names: Sequence[str], _requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        odd = {"mute": Opinion(None, "unreadable"), "busy": Opinion(None, "endpoint 503", final=False)}
        pairs = zip(names, responses, strict=True)
        return [odd[text] if name == "b" and text in odd else Opinion(0.5) for name, text in pairs]

    told = ask_clauses(["a", "b"], ["q"] * 3, ["fine", "mute", "busy"], ask)
    assert told == [(("a", 0.5), ("b", 0.5)), (("a", 0.5),), None]


def test_broken_clauses_come_likeliest_first() -> None:
    assert broken((("a", 0.5), ("b", 0.49), ("c", 0.9)), 0.5) == ["c", "a"]
    assert broken((), 0.5) == []
    assert broken(None, 0.5) is None


class Told:
    """A judge of three clauses that says what it is told to."""

    def __init__(self, told: list[Clauses | None]) -> None:
        self.told = told

    def opinions(self, _requests: Sequence[str], _responses: Sequence[str]) -> list[Opinion]:
        pytest.fail("asked for the whole policy")

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Clauses | None]:
        return [self.told[int(text)] for text in responses]

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": 3}


def test_the_verdict_is_the_clause_that_is_broken_most_likely() -> None:
    told: list[Clauses | None] = [(("a", 0.2), ("b", 0.7), ("c", 0.1)), (("a", 0.2), ("c", 0.9)), None]
    judge = ClausewiseJudge(Told(told), ["a", "b", "c"])
    sure, unread, failed = judge.opinions(["q"] * 3, list("012"))
    assert sure == Opinion(0.7, clauses=told[0])
    assert (unread.p_violates, unread.error) == (None, "unreadable: no verdict on clause b")
    assert (failed.p_violates, failed.final) == (None, False)
    assert str(failed.error).startswith("endpoint")
