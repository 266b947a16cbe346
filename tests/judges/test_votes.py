"""Answers that are voted on: what each says, and P(violates) as their share."""

from __future__ import annotations

import json

import jsonschema
import pytest

from trace_ray.judges.opinion import Opinion, both_ways, contrary
from trace_ray.judges.votes import Vote, opinion_of_votes, read_reasons, read_word, reason_schema

YES, NO = ("Yes", " Yes"), ("No", " no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"reasoning": "r", "violates": true}', True),
        ('<think>{"violates": true}\n</think>\n\n```json\n{"reasoning": "r", "violates": false}\n```', False),
        ('<think>it goes on and on {"violates": true', None),
        ('{"reasoning": "r", "violates": "yes"}', None),
        ('{"reasoning": "r"', None),
        ("[1]", None),
        ("", None),
        (None, None),
    ],
)
def test_reasons_are_read_behind_thoughts_and_never_guessed(text: str | None, said: bool | None) -> None:
    assert read_reasons(text).violates is said


@pytest.mark.parametrize(
    ("text", "said"),
    [(" yes", True), ("**No**, because", False), ("<think>Yes?</think>\nNO.", False), ("Nobody", None), ("", None)],
)
def test_a_word_is_read_whatever_is_around_it(text: str, said: bool | None) -> None:
    assert read_word(text, YES, NO).violates is said


def test_p_is_the_share_of_the_readable_votes() -> None:
    votes = [Vote(True, frozenset("a"), "bad"), Vote(False, rationale="good"), Vote(True, frozenset("ab"), "worse")]
    said = opinion_of_votes([*votes, Vote(None)], 0.5, ["a", "b", "c"])
    assert said == Opinion(2 / 3, clauses=(("a", 2 / 3), ("b", 1 / 3), ("c", 0.0)), rationale="bad")
    kept = opinion_of_votes([Vote(False, rationale="good"), *[Vote(False)] * 3, votes[0]], 0.5)
    assert (kept.p_violates, kept.rationale, kept.clauses) == (0.2, "good", None)
    mumbled = opinion_of_votes([votes[0], *[Vote(None)] * 2], 0.5)
    assert (mumbled.p_violates, mumbled.error) == (None, "unreadable: 2 of 3 answers give no verdict")


def test_the_schema_takes_what_is_read_and_nothing_else() -> None:
    schema = reason_schema(["a", "b"], 20)
    good = {"reasoning": "because", "violates": True, "clauses": ["b"]}
    jsonschema.validate(good, schema)
    assert read_reasons(json.dumps(good)) == Vote(True, frozenset("b"), "because")
    for wrong in ({"clauses": ["c"]}, {"violates": 1}, {"more": 1}, {"reasoning": "x" * 21}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | wrong, schema)
    assert "clauses" not in reason_schema([])["properties"]


def test_both_ways_cures_a_liking_for_yes_and_tells_it() -> None:
    """A judge whose Yes is 0.3 likelier than it should be, whatever is asked."""
    for truth in (0.1, 0.4, 0.6):
        said = both_ways(Opinion(truth + 0.3), Opinion(1 - truth + 0.3 if truth > 0.3 else 1.0))
        if truth > 0.3:
            assert said.p_violates == pytest.approx(truth)
            assert said.yes_bias == pytest.approx(0.3)
    mute = Opinion(None, "unreadable")
    assert both_ways(mute, Opinion(0.2)) == both_ways(Opinion(0.2), mute) == mute
    assert contrary(Opinion(0.25)).p_violates == 0.75
    assert contrary(mute) == mute
