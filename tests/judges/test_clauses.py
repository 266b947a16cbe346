"""Naming a clause among more of them than there are letters, against the best of all at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from trace_ray.judges.clauses import Named, Offer, name_clauses, questions


@pytest.mark.parametrize(("clauses", "most"), [(1, 26), (26, 26), (27, 26), (61, 26), (50, 3), (700, 26)])
def test_the_clause_named_is_the_best_of_all_and_the_questions_are_counted(clauses: int, most: int) -> None:
    ids = [f"c{i}" for i in range(clauses)]
    draw = random.Random(clauses)
    liking = [{name: draw.random() for name in ids} for _ in range(5)]
    asked = [0] * 5

    def ask(offer: Offer, which: Sequence[int]) -> list[Named]:
        assert len(offer) <= most
        for i in which:
            asked[i] += 1
        return [(max(offer, key=lambda name: liking[i][name]),) for i in which]

    assert name_clauses(ids, 5, most, ask) == [(max(likes, key=lambda name: likes[name]),) for likes in liking]
    assert asked == [questions(clauses, most)] * 5


def test_an_unread_group_leaves_the_others_and_a_failed_one_leaves_it_open() -> None:
    def ask(offer: Offer, which: Sequence[int]) -> list[Named]:
        said: dict[int, Named] = {
            0: (),
            1: (offer[0],) if "c" in offer else (),
            2: None if "a" in offer else (offer[0],),
        }
        return [said[i] for i in which]

    assert name_clauses(list("abcd"), 3, 2, ask) == [(), ("c",), None]


@pytest.mark.parametrize(("ids", "most"), [([], 26), (["a", "b"], 0), (["a", "b"], 1)])
def test_without_clauses_or_letters_nothing_is_asked(ids: list[str], most: int) -> None:
    assert name_clauses(ids, 2, most, lambda _offer, _which: pytest.fail("asked")) == [(), ()]
