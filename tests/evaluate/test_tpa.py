"""TPA by hand-counted answers."""

from __future__ import annotations

from typing import Any

import pytest

from trace_ray.evaluate.tpa import compliance, diversity, evaluation_metrics


def answers(model: str, compliant: list[bool], unclear: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "pair_id": str(i),
            "prompt": "p",
            "model": model,
            "category": "INVERT" if i % 2 else "RETAIN",
            "source": "s",
            "compliant": good,
            "judge_error": "unreadable" if i < unclear else None,
            "response": "two words",
        }
        for i, good in enumerate(compliant)
    ]


def test_shares_counts_and_intervals() -> None:
    rows = [*answers("base", [True, False, True, False]), *answers("realigned", [False, True, True, True], unclear=1)]
    metrics = evaluation_metrics(rows[::-1], 500, 0)
    assert metrics["tpa"] == {
        "base": {"all": 50, "RETAIN": 100, "INVERT": 0},
        "realigned": {"all": 75, "RETAIN": 50, "INVERT": 100},
    }
    assert metrics["n"] == {"all": 4, "RETAIN": 2, "INVERT": 2}
    assert metrics["unclear"] == {"base": 0, "realigned": 1}
    assert metrics["mean_words"] == {"base": 2, "realigned": 2}
    assert metrics["tpa_change"]["INVERT"]["change"] == 100
    low, high = metrics["tpa_interval"]["realigned"]["all"]
    assert low < 75 < high <= 100
    assert metrics["tpa_change"]["all"]["interval"] == pytest.approx([-50, 100])
    assert metrics["tpa_change_by_source"] == dict.fromkeys(("all", "s"), metrics["tpa_change"]["all"])


def test_an_unreadable_verdict_counts_as_a_violation() -> None:
    rows = [
        {"pair_id": str(i), "prompt": "p", "model": "base", "compliant": c, "category": "INVERT"}
        for i, c in enumerate([True, None, False, None])
    ]
    assert compliance(rows, "category") == {"base": {"all": [1.0, 0.0, 0.0, 0.0], "INVERT": [1.0, 0.0, 0.0, 0.0]}}


def test_a_source_that_is_called_all_is_counted_once() -> None:
    rows = [row | {"source": "all"} for row in answers("base", [True, False, True, False])]
    assert compliance(rows, "source") == {"base": {"all": [1, 0, 1, 0]}}


def test_a_model_that_repeats_itself_has_little_diversity() -> None:
    prose, ahem = "a policy asks for an answer that helps", " ".join(["ahem"] * 40)
    assert diversity([prose]) == 1.0
    assert diversity([ahem]) == pytest.approx(1 / 39)
    assert diversity([prose, ahem, "no", ""]) == pytest.approx((1 + 1 / 39) / 2)
    assert diversity(["no", ""]) == 0.0
