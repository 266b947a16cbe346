"""A dead training is told from one that trains, by its figures alone."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.realign import handmade
from trace_ray.realign.dead import cause_of_death
from trace_ray.runs.figures import training_figures

WEIGHED = ("INVERT", "PUNISH")


def row(step: int, **figures: Any) -> dict[str, Any]:
    own = {"step": step, "grad_norm": 1.0, "INVERT/weight": 1.0, "INVERT/loss": 0.7 - 0.01 * step}
    return own | {name.replace("_of_", "/"): value for name, value in figures.items()}


def anchors(step: int) -> dict[str, Any]:
    """Of a step with no conflict in it, at the reference: its KL is 0, and so is its gradient."""
    return {"step": step, "grad_norm": 0.0, "RETAIN/weight": 1.0, "RETAIN/loss": 0.0}


def died(rows: list[dict[str, Any]], epsilon: float = 0.0, max_grad_norm: float = 1.0, over: bool = False) -> str:
    return cause_of_death(rows, WEIGHED, 3, epsilon=epsilon, max_grad_norm=max_grad_norm, over=over)


def test_a_gradient_of_exactly_0_is_the_end_unless_epsilon_asked_for_it() -> None:
    rows = [row(1), *(row(step, grad_norm=0.0) for step in (2, 3, 4))]
    assert "exactly 0" in died(rows)
    assert not died(rows, epsilon=1e-3)
    assert not died(rows[:3])
    assert not died([row(1), row(2, grad_norm=0.0), row(3, grad_norm=1e-30), row(4, grad_norm=0.0)])


def test_steps_of_anchors_alone_need_no_gradient() -> None:
    assert not died([anchors(step) for step in range(1, 9)])
    assert not died([row(1), *(anchors(step) for step in range(2, 9))])
    mixed = [row(step, grad_norm=0.0) if step % 2 else anchors(step) for step in range(1, 6)]
    assert "exactly 0" in died(mixed)
    assert not died([*mixed, anchors(6)])  # said once the next conflict shows it


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_loss_that_stands_still_is_a_model_that_does_not_move(noise: float) -> None:
    """A rate so small that every step sees log 2 but for rounding, or a model that answers nothing in the pairs any more."""
    rows = [row(step, INVERT_of_loss=math.log(2) + noise * (-1) ** step) for step in (2, 3, 4)]
    assert not died(rows)  # as bfloat16 weights may, at the start
    assert "stood still" in died(rows, over=True)
    assert "stood still" in died([row(1, INVERT_of_loss=0.9), *rows])
    assert not died([*rows[:2], row(4, INVERT_of_loss=0.692)], over=True)
    two = [step_row | {"PUNISH/weight": 1.0, "PUNISH/loss": 1.3 - 0.1 * step_row["step"]} for step_row in rows]
    assert not died(two, over=True)


def test_steps_all_clipped_to_less_than_a_thousandth_are_none() -> None:
    rows = [row(step, grad_norm=1001.0) for step in (1, 2, 3)]
    assert "less than a thousandth (norm 1e+03 or more, limit 1)" in died(rows)
    assert not died([*rows[:2], row(3, grad_norm=999.0)])
    assert not died(rows, max_grad_norm=0.0)
    assert not died(rows, max_grad_norm=2.0)


@pytest.mark.parametrize(
    ("shift", "max_grad_norm", "cause"),
    [
        (1e6, 1.0, "scored: PUNISH: the mean log-ratio to the reference is -1e+06 nats at the first step, not 0"),
        (0.0, 1e-9, "realign.learning_rate: 0.01: each gradient was clipped to less than a thousandth"),
        (float("-inf"), 1.0, "realign.learning_rate: 0.01: PUNISH/loss is not finite at step 1"),
    ],
)
def test_a_trainer_stops_with_rate_and_step(tmp_path: Path, shift: float, max_grad_norm: float, cause: str) -> None:
    """Made by the reference's log-probs and by the limit, so on any processor."""
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"), epochs=9, max_grad_norm=max_grad_norm)
    run = handmade.make_run(tmp_path / "run", config, categories=("PUNISH",), shift=shift)
    with pytest.raises(AssertionError, match=rf"UserError: \S*{re.escape(cause)}"):
        handmade.train(run, config, tmp_path / "trained", 1, 30)
    if not shift:
        assert len(training_figures(run)) == 10
