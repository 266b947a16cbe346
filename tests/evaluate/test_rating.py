"""Blind items and win rates by hand-counted ratings."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from trace_ray.errors import UserError
from trace_ray.evaluate.rating.items import Item, blind_items, items_csv
from trace_ray.evaluate.rating.page import rater_page
from trace_ray.evaluate.rating.panel import panel_votes
from trace_ray.evaluate.rating.results import Rating, rating_results, read_ratings, win_rates
from trace_ray.judges.opinion import Clauses, Opinion


def answers(system: str, count: int, same: int = 0) -> dict[str, dict[str, Any]]:
    return {
        f"p{i}": {"prompt": f"prompt {i}", "response": "alike" if i < same else f"{system} says {i}"}
        for i in range(count)
    }


def three(count: int = 60) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: answers(name, count, same=10) for name in ("trace", "u2a", "base")}


def test_every_system_takes_every_letter_and_alike_answers_are_not_shown() -> None:
    items, identical = blind_items(three(), 0, 0)
    assert (len(items), identical) == (50, 10)
    for system in three():
        letters = [letter for item in items for letter, name in item.systems.items() if name == system]
        assert {letters.count(letter) > 8 for letter in "ABC"} == {True}
    for item in items:
        assert all(item.answers[letter].startswith(name) for letter, name in item.systems.items())


def test_what_raters_get_names_no_system() -> None:
    systems = {
        name: {p: {**a, "response": f"text {p} {i}"} for p, a in rows.items()}
        for i, (name, rows) in enumerate(three().items())
    }
    items, _ = blind_items(systems, 5, 0)
    for text in (items_csv(items), rater_page(items, {"choice": "Which?"}, "policy", "x")):
        assert "text p" in text
        assert not any(name in text for name in ("trace", "u2a", "base "))


def test_a_seed_fixes_the_export_and_another_changes_it() -> None:
    assert blind_items(three(), 7, 1) == blind_items(three(), 7, 1)
    assert blind_items(three(), 7, 1) != blind_items(three(), 7, 2)


def test_ratings_of_one_export_fit_no_other() -> None:
    """Other systems, other answers: the old file must be refused, not scored for whoever has the letter now."""
    first, _ = blind_items({name: answers(name, 9) for name in ("trace", "base")}, 0, 0)
    other, _ = blind_items({name: answers(name, 9) for name in ("npo", "base")}, 0, 0)
    retrained, _ = blind_items({"trace": answers("better", 9), "base": answers("base", 9)}, 0, 0)
    ids = [{item.item_id for item in items} for items in (first, other, retrained)]
    assert [len(item_ids) for item_ids in ids] == [9, 9, 9]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    old, key = f"item_id,rater,choice\n{first[0].item_id},ann,A\n", {item.item_id: item.systems for item in other}
    with pytest.raises(UserError, match="not in the export's key"):
        read_ratings(old, key, "old.csv")


def test_no_spreadsheet_reads_an_items_id_as_a_number() -> None:
    items, _ = blind_items({name: answers(name, 300) for name in ("a", "b")}, 0, 0)
    assert all(item.item_id[0] == "i" for item in items)


@pytest.mark.parametrize("systems", [["trace"], ["a", "b", "c", "d"]])
def test_one_or_four_systems_are_refused(systems: list[str]) -> None:
    with pytest.raises(UserError, match="systems"):
        blind_items({name: answers(name, 3) for name in systems}, 0, 0)


def test_a_spreadsheet_takes_no_answer_for_a_formula() -> None:
    item = Item(item_id="1", prompt="=cmd()", answers={"A": "+1", "B": "ok"}, systems={})
    row = list(csv.reader(io.StringIO(items_csv([item]))))[1]
    assert row[1:4] == ["'=cmd()", "'+1", "ok"]


KEY = {f"i{n}": {"A": "trace", "B": "u2a"} if n % 2 else {"A": "u2a", "B": "trace"} for n in range(4)}


def test_letters_are_turned_back_into_systems_and_blanks_are_missing() -> None:
    text = "\ufeffitem_id,rater,choice\ni0,ann,A\ni1,ann,A\ni2,ann,tie\ni3,ann,\n"
    assert [set(r.best) for r in read_ratings(text, KEY, "f.csv")] == [{"u2a"}, {"trace"}, {"trace", "u2a"}]


@pytest.mark.parametrize("line", ["i9,ann,A", "i1,ann,C", "i1,ann,A\ni1,ann,B"])
def test_a_wrong_line_is_named(line: str) -> None:
    with pytest.raises(UserError, match=r"f\.csv: line"):
        read_ratings(f"item_id,rater,choice\n{line}\n", KEY, "f.csv")


def rated(item: str, *best: str, rater: str = "ann") -> Rating:
    return Rating(item, rater, frozenset(best))


def test_win_rate_by_hand_and_an_interval_over_items() -> None:
    ratings = [rated("i0", "trace"), rated("i0", "trace", rater="bob"), rated("i1", "u2a"), rated("i2", "trace", "u2a")]
    (row,) = win_rates(ratings, ["trace", "u2a"], 4000, 0)
    assert (row["wins"], row["ties"], row["losses"], row["items"]) == (2, 1, 1, 3)
    assert row["win_rate"] == pytest.approx(100 * 2.5 / 4)
    assert row["interval"] == pytest.approx([0, 100])


def test_a_choice_for_a_third_system_says_nothing_about_two_others() -> None:
    ratings = [rated("i0", "base"), rated("i1", "trace")]
    rows = {(r["system"], r["against"]): r for r in win_rates(ratings, ["base", "trace", "u2a"], 200, 0)}
    assert rows["trace", "u2a"]["ratings"] == 1
    assert rows["base", "u2a"]["win_rate"] == 100
    assert rows["base", "trace"]["win_rate"] == 50


def test_two_of_three_that_share_the_first_place_both_beat_the_third() -> None:
    (rating,) = read_ratings("item_id,rater,choice\nx,ann,a+C\n", {"x": {"A": "p", "B": "q", "C": "r"}}, "f.csv")
    rows = {(r["system"], r["against"]): r["win_rate"] for r in win_rates([rating], ["p", "q", "r"], 200, 0)}
    assert rows == {("p", "q"): 100, ("p", "r"): 50, ("q", "r"): 0}


def test_a_few_wins_in_a_row_are_no_certainty() -> None:
    (row,) = win_rates([rated(f"i{n}", "trace") for n in range(4)], ["trace", "u2a"], 200, 0)
    assert row["interval"] == pytest.approx([100 * 0.025**0.25, 100])


def test_ties_alone_are_no_certainty_either() -> None:
    """Item by item the same mean: resampling items would give an interval of width 0."""
    opposed = [rated(f"i{n}", who, rater=who) for n in range(3) for who in ("trace", "u2a")]
    ties = [rated(f"i{n}", "trace", "u2a") for n in range(3)]
    for ratings in (opposed, ties):
        (row,) = win_rates(ratings, ["trace", "u2a"], 200, 0)
        assert row["win_rate"] == 50
        assert row["interval"][0] < 20 < 80 < row["interval"][1]


def test_results_hold_agreement_over_systems_not_letters() -> None:
    ratings = [rated(f"i{n}", "trace" if n else "u2a", rater=who) for n in range(4) for who in ("ann", "bob")]
    results = rating_results(ratings, KEY, 200, 0)
    assert results["alpha"] == 1
    assert results["raters"] == {"ann": 4, "bob": 4}


class Known:
    """A judge that finds a number in the text: a stand-in at the outermost edge."""

    def opinions(self, requests: Any, responses: Any) -> list[Opinion]:
        return [Opinion(None, "x") if text == "?" else Opinion(float(text)) for text in responses]

    def clauses(self, requests: Any, responses: Any) -> list[Clauses]:
        return [() for _ in responses]

    def counts(self) -> dict[str, int]:
        return {}


def test_a_judge_votes_for_the_least_violating_answer_and_ties_within_the_margin() -> None:
    items = [
        ("1", "p", {"A": "0.9", "B": "0.1"}),
        ("2", "p", {"A": "0.5", "B": "0.45"}),
        ("3", "p", {"A": "?", "B": "0"}),
    ]
    items.append(("4", "p", {"A": "0.4", "B": "0.9", "C": "0.1"}))
    items.append(("5", "p", {"A": "0.1", "B": "0.9", "C": "0.05"}))
    votes = [("1", "B"), ("2", "tie"), ("3", ""), ("4", "C"), ("5", "A+C")]
    assert panel_votes(Known(), items, 0.1) == votes
