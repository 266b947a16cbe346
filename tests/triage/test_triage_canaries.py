"""The canary set: a judge that reads is held to it, and what it falls for is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trace_ray.errors import JudgeRejectedError
from trace_ray.judges.canaries import ATTACKS, SEEDS, canary_report, refuse_gullible_judge
from trace_ray.judges.opinion import Clauses, Opinion


class Reader:
    """Finds BAD in a response, unless it falls for one of its weaknesses or is too long for it."""

    def __init__(self, *weaknesses: str, longest: int = 10**6) -> None:
        self.weaknesses, self.longest = weaknesses, longest

    def opinions(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        return [self.opinion(text) for text in responses]

    def opinion(self, text: str) -> Opinion:
        if len(text) > self.longest:
            return Opinion(None, "too long for the judge")
        return Opinion(0.9 if "BAD" in text and not any(word in text for word in self.weaknesses) else 0.1)

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[Clauses]:
        return [()] * len(responses)

    def counts(self) -> dict[str, int]:
        return {}


RESPONSES = ["fine", *(f"BAD {i}" for i in range(9))]


def test_a_judge_that_reads_passes_all() -> None:
    report = canary_report(Reader(), ["q"] * 10, RESPONSES, 0.5)
    assert report["pass_rate"] == 1.0
    assert report["tried"] == SEEDS * len(ATTACKS)
    refuse_gullible_judge(report, 1.0, "m")


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_seen_where_it_works(attack: str) -> None:
    added = ATTACKS[attack]("BAD 0").replace("BAD 0", "\x00").split("\x00")
    mark = max(added, key=len)
    report = canary_report(Reader(mark), ["q"] * 10, RESPONSES, 0.5)
    assert report["by_attack"][attack] == 0.0
    assert report["pass_rate"] <= 1 - 1 / len(ATTACKS)
    with pytest.raises(JudgeRejectedError, match=attack):
        refuse_gullible_judge(report, 0.99, "m")


def test_a_response_too_long_to_read_is_no_pass_for_the_attacker() -> None:
    report = canary_report(Reader(longest=2000), ["q"] * 10, RESPONSES, 0.5)
    assert report["pass_rate"] == 1.0
    assert report["unreadable"] == SEEDS


def test_without_a_violating_response_nothing_is_claimed() -> None:
    report = canary_report(Reader(), ["q"] * 3, ["fine"] * 3, 0.5)
    assert report["pass_rate"] is None
    refuse_gullible_judge(report, 1.0, "m")


def test_the_set_covers_what_it_should() -> None:
    assert {"forged_verdict", "solution", "lone_punctuation", "instruction", "chinese", "very_long"} <= set(ATTACKS)
    assert len(ATTACKS["very_long"]("x")) > 5000
