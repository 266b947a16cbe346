"""Ids, schemas and the category table."""

from __future__ import annotations

import pytest

from trace_ray.pairs import PAIR_SCHEMA, SCORED_SCHEMA, TRIAGED_SCHEMA, categorise, complies, hash_fraction, pair_id

PROMPT = [{"role": "user", "content": "hi"}]


def test_an_id_depends_on_content_alone() -> None:
    assert pair_id(PROMPT, "yes", "no") == "ad4c11d4350ce14e5ec3bb3f3852d263"
    assert pair_id(PROMPT, "yes", "no") != pair_id(PROMPT, "no", "yes")
    assert pair_id(PROMPT, "ab", "c") != pair_id(PROMPT, "a", "bc")


def test_each_contract_keeps_the_columns_of_the_one_before() -> None:
    assert TRIAGED_SCHEMA.names[: len(PAIR_SCHEMA)] == PAIR_SCHEMA.names
    assert SCORED_SCHEMA.names[: len(TRIAGED_SCHEMA)] == TRIAGED_SCHEMA.names


def test_sampling_by_hash_is_even_and_fixed() -> None:
    drawn = hash_fraction([str(i) for i in range(4000)], 1)
    assert hash_fraction(["17"], 1) == [drawn[17]]
    assert sum(x < 0.25 for x in drawn) == pytest.approx(1000, abs=120)
    assert all(0 <= x < 1 for x in drawn)


@pytest.mark.parametrize(
    ("chosen", "rejected", "category"),
    [
        (False, True, "INVERT"),
        (False, False, "PUNISH"),
        (True, True, "RETAIN"),
        (True, False, "RETAIN"),
        (True, None, "RETAIN"),
        (None, True, "ABSTAIN"),
        (False, None, "ABSTAIN"),
    ],
)
def test_the_category_table(chosen: bool | None, rejected: bool | None, category: str) -> None:
    assert categorise(chosen, rejected) == category


def test_a_band_around_the_threshold_is_undecided() -> None:
    assert complies(0.2, 0.5, 0.1) is True
    assert complies(0.45, 0.5, 0.1) is None
    assert complies(0.7, 0.5, 0.1) is False
    assert complies(0.5, 0.5, 0.0) is False
    assert complies(None, 0.5, 0.0) is None
