"""TPA by source, and that both models' answers are paired whatever the order of their rows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from trace_ray.evaluate.tpa import evaluation_metrics

SOURCES = {"hh": [True] * 4, "pku": [False] * 3}


def answer(model: str, number: int, *, compliant: bool, category: str = "INVERT", source: str = "s") -> dict[str, Any]:
    """Two prompts a pair, as attacks and prompt files make them."""
    return {
        "pair_id": f"pair {number // 2}",
        "prompt": f"prompt {number % 2}",
        "model": model,
        "category": category,
        "source": source,
        "compliant": compliant,
        "judge_error": None,
        "response": "two words",
    }


def test_one_models_rows_may_come_in_any_order() -> None:
    """No answer changed, so that the interval is the exact one; answers paired wrongly would seem to have changed."""
    base, realigned = ([answer(model, i, compliant=i % 3 == 0) for i in range(24)] for model in ("base", "realigned"))
    random.Random(0).shuffle(realigned)
    change = evaluation_metrics([*base, *realigned], 200, 0)["tpa_change"]["all"]
    bound = 100 * (1 - 0.025 ** (1 / 24))
    assert change["change"] == 0
    assert change["interval"] == pytest.approx([-bound, bound])


def test_the_change_of_shuffled_rows_is_that_of_ordered_ones() -> None:
    base = [answer("base", i, compliant=i % 2 == 0) for i in range(40)]
    realigned = [answer("realigned", i, compliant=i % 2 == 0 or i < 10) for i in range(40)]
    ordered = evaluation_metrics([*base, *realigned], 500, 0)
    for seed in range(3):
        shuffled = random.Random(seed).sample(realigned, len(realigned))
        assert evaluation_metrics([*base, *shuffled], 500, 0)["tpa_change"] == ordered["tpa_change"]


def by_source() -> dict[str, Any]:
    """Every source holds both categories, so that no group of one kind is a group of the other."""
    rows = [
        answer("base", 10 * len(name) + i, compliant=good, category=("INVERT", "RETAIN")[i % 2], source=name)
        for name, compliant in SOURCES.items()
        for i, good in enumerate(compliant)
    ]
    return evaluation_metrics(rows, 500, 0)


def test_sources_have_shares_and_counts_of_their_own() -> None:
    metrics = by_source()
    assert metrics["tpa_by_source"] == {"base": {"all": pytest.approx(400 / 7), "hh": 100, "pku": 0}}
    assert metrics["n_by_source"] == {"all": 7, "hh": 4, "pku": 3}
    assert metrics["tpa"] == {"base": {"all": pytest.approx(400 / 7), "INVERT": 50, "RETAIN": pytest.approx(200 / 3)}}


def test_sources_have_intervals_of_their_own() -> None:
    metrics = by_source()
    intervals = metrics["tpa_by_source_interval"]["base"]
    assert set(intervals) == {"all", "hh", "pku"}
    assert intervals["hh"] == pytest.approx([100 * 0.025 ** (1 / 4), 100])
    assert intervals["pku"] == pytest.approx([0, 100 * (1 - 0.025 ** (1 / 3))])
    assert intervals["all"] == metrics["tpa_interval"]["base"]["all"]
    assert set(metrics["tpa_interval"]["base"]) == {"all", "INVERT", "RETAIN"}
