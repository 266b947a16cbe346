"""Krippendorff's alpha against his published example and against the library krippendorff where it is installed."""

from __future__ import annotations

import random

import pytest

from trace_ray.evaluate.rating.agreement import krippendorff_alpha

# Krippendorff (2011), section C: four observers, twelve units, missing values as dots; nominal alpha 0.743.
PUBLISHED = {
    "A": "12332141 2...".replace(" ", ""),
    "B": "123322412 5.3".replace(" ", ""),
    "C": ".33323422 51.".replace(" ", ""),
    "D": "123324412 51.".replace(" ", ""),
}


def units(table: dict[str, str]) -> list[dict[str, str]]:
    length = len(next(iter(table.values())))
    return [{rater: row[i] for rater, row in table.items() if row[i] != "."} for i in range(length)]


def test_the_published_example() -> None:
    assert all(len(row) == 12 for row in PUBLISHED.values())
    assert krippendorff_alpha(units(PUBLISHED)) == pytest.approx(0.743, abs=0.0005)


def test_two_raters_by_hand() -> None:
    # Four units, one disagreement: o = 2 of 8 ordered pairs; 5 a's and 3 b's: D_e = 30 / 7; alpha = 1 - 2 / (30 / 7).
    assert krippendorff_alpha(units({"x": "aabb", "y": "aaba"})) == pytest.approx(1 - 2 / (30 / 7))


def test_full_agreement_is_one_and_nothing_to_disagree_on_is_undefined() -> None:
    assert krippendorff_alpha(units({"x": "ab", "y": "ab"})) == 1
    assert krippendorff_alpha(units({"x": "aa", "y": "aa"})) is None
    assert krippendorff_alpha(units({"x": "ab.", "y": "..a"})) is None


def test_against_an_independent_library() -> None:
    import krippendorff as library

    rng = random.Random(0)
    for _ in range(30):
        table = {r: "".join(rng.choice("aabc.") for _ in range(15)) for r in "wxyz"}
        coded = [[{"a": 0, "b": 1, "c": 2, ".": float("nan")}[v] for v in row] for row in table.values()]
        expected = library.alpha(reliability_data=coded, level_of_measurement="nominal")
        assert krippendorff_alpha(units(table)) == pytest.approx(expected, abs=1e-9)
