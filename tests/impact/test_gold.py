"""The gold batch of corpora that lack a category, down to one pair."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from trace_ray.errors import UserError
from trace_ray.impact.gold import choose_gold, shares
from trace_ray.pairs import TRIAGED_SCHEMA


def table(*categories: str, corrected: str | None = None, split: str = "train") -> pa.Table:
    rows = [
        {
            "row": i,
            "pair_id": f"{i:032x}",
            "split": split,
            "prompt": [{"role": "user", "content": f"x{i}"}],
            "chosen": f"w{i}",
            "rejected": f"l{i}",
            "corrected": corrected if name == "PUNISH" else None,
            "category": name,
        }
        for i, name in enumerate(categories)
    ]
    return pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA)


def sides(rows: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(row["category"], row["preferred"], row["dispreferred"]) for row in rows}


@pytest.mark.parametrize(
    ("available", "taken"),
    [
        ({"RETAIN": 9, "INVERT": 9, "PUNISH": 9}, {"RETAIN": 2, "INVERT": 2, "PUNISH": 3}),
        ({"RETAIN": 9, "INVERT": 1, "PUNISH": 9}, {"RETAIN": 2, "INVERT": 1, "PUNISH": 4}),
        ({"RETAIN": 9, "INVERT": 1, "PUNISH": 1}, {"RETAIN": 5, "INVERT": 1, "PUNISH": 1}),
        ({"INVERT": 9}, {"RETAIN": 0, "INVERT": 7, "PUNISH": 0}),
        ({"INVERT": 1}, {"RETAIN": 0, "INVERT": 1, "PUNISH": 0}),
    ],
)
def test_a_third_each_and_what_one_lacks_the_conflicts_make_up(
    available: dict[str, int], taken: dict[str, int]
) -> None:
    assert shares(7, available) == taken


def test_each_category_has_its_preferred_side() -> None:
    retain_invert = choose_gold([table("RETAIN", "INVERT")], 3, 0, corrected=False)
    assert sides(retain_invert) == {("RETAIN", "w0", "l0"), ("INVERT", "l1", "w1")}
    lent_by_retain = choose_gold([table("RETAIN", "PUNISH")], 3, 0, corrected=False)
    assert ("PUNISH", "w0", "w1") in sides(lent_by_retain)
    lent_by_invert = choose_gold([table("INVERT", "PUNISH")], 3, 0, corrected=False)
    assert ("PUNISH", "l0", "w1") in sides(lent_by_invert)
    own = choose_gold([table("RETAIN", "PUNISH", corrected="c")], 3, 0, corrected=True)
    assert ("PUNISH", "c", "w1") in sides(own)


def test_one_pair_that_conflicts_is_enough() -> None:
    assert sides(choose_gold([table("INVERT")], 64, 0, corrected=False)) == {("INVERT", "l0", "w0")}
    assert sides(choose_gold([table("PUNISH", corrected="c")], 64, 0, corrected=True)) == {("PUNISH", "c", "w0")}


@pytest.mark.parametrize("categories", [("RETAIN",), ("RETAIN", "RETAIN")])
def test_without_a_conflict_the_run_stops(categories: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="no training pair is INVERT or PUNISH"):
        choose_gold([table(*categories)], 7, 0, corrected=False)


@pytest.mark.parametrize(
    ("categories", "split"), [((), "train"), (("ABSTAIN",), "train"), (("RETAIN", "INVERT"), "test")]
)
def test_where_nothing_can_be_trained_on_no_word_is_said_of_the_model(categories: tuple[str, ...], split: str) -> None:
    with pytest.raises(UserError, match="no training pair that is RETAIN, INVERT or PUNISH: all are refused") as caught:
        choose_gold([table(*categories, split=split)], 7, 0, corrected=False)
    assert "needs no realignment" not in str(caught.value)


def test_held_out_conflicts_are_none_to_train_on() -> None:
    parts = [table("INVERT", "PUNISH", split="test"), table("RETAIN")]
    with pytest.raises(UserError, match="no training pair is INVERT or PUNISH"):
        choose_gold(parts, 7, 0, corrected=False)


@pytest.mark.parametrize(
    ("corrected", "remedy"),
    [(False, "--method trace_oracle with triage.correct=true"), (True, "triage.gold_responses")],
)
def test_conflicts_that_are_all_punish_need_a_compliant_response(remedy: str, *, corrected: bool) -> None:
    with pytest.raises(UserError, match="2 conflicts, all PUNISH") as caught:
        choose_gold([table("PUNISH", "PUNISH")], 7, 0, corrected=corrected)
    assert remedy in str(caught.value)


def test_the_choice_is_by_hash_and_not_by_order() -> None:
    whole = table(*["RETAIN", "INVERT", "PUNISH"] * 9)
    turned = [whole.slice(i, 5) for i in range(0, 27, 5)][::-1]
    chosen, again = (choose_gold(parts, 7, 3, corrected=False) for parts in ([whole], turned))
    assert chosen == again
    assert chosen != choose_gold([whole], 7, 4, corrected=False)
