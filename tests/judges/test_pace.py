"""Requests and tokens a minute, on a clock of the test's own."""

from __future__ import annotations

import pytest

from trace_ray.judges.pace import Pace


def sent(pace: Pace, number: int, tokens: int = 0) -> list[float]:
    """When each of so many requests goes out, all asked for at once; each answer's tokens are known as it goes."""
    times = []
    for _ in range(number):
        times.append(pace.take_turn(0.0))
        pace.used(tokens, times[-1])
    return times


def test_requests_are_spread_over_the_minute() -> None:
    assert sent(Pace(120, 0), 4) == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert sent(Pace(0, 0), 4) == [0.0] * 4


def test_tokens_hold_up_what_comes_after_them() -> None:
    assert sent(Pace(0, 6000), 3, tokens=200) == pytest.approx([0.0, 2.0, 4.0])
    assert sent(Pace(600, 6000), 3, tokens=200) == pytest.approx([0.0, 2.0, 4.0])
    assert sent(Pace(10, 6000), 3, tokens=200) == pytest.approx([0.0, 6.0, 12.0])


def test_what_was_not_used_is_no_credit() -> None:
    pace = Pace(60, 0)
    assert pace.take_turn(0.0) == 0.0
    assert [pace.take_turn(100.0), pace.take_turn(100.0)] == pytest.approx([0.0, 1.0])
