"""Which candidate is kept, against the rules spelled out, and that nothing after patience ran out has a say."""

from __future__ import annotations

import random

import pytest

from trace_ray.config import SelectConfig
from trace_ray.runs.validations import Validation, with_validations
from trace_ray.selection.choose import Choice, choose, over_budget


def measured(step: int, share: float, drift: float = 0.0, **groups: float) -> Validation:
    tpa = {"all": share, "INVERT": share, "RETAIN": 80.0} | groups
    prompts = dict.fromkeys(tpa, 10)
    return Validation(step=step, adapter="x", tpa=tpa, prompts=prompts, drift=drift, seconds=1.0, tokens=1)


def test_the_best_is_kept_and_of_equals_the_earliest() -> None:
    curve = [measured(0, 40), measured(10, 90), measured(20, 95), measured(30, 95), measured(40, 75)]
    assert choose(curve, SelectConfig(steps=10)) == Choice(20, None)


def test_a_candidate_beyond_a_budget_is_not_kept() -> None:
    select = SelectConfig(steps=10, max_drift=0.5, max_category_loss=5.0)
    curve = [measured(0, 40), measured(10, 90), measured(20, 99, drift=0.51), measured(30, 99, RETAIN=74.9)]
    assert choose(curve, select) == Choice(10, None)
    assert [over_budget(candidate, curve[0], select) for candidate in curve] == [
        "",
        "",
        "drift 0.51 nats a token",
        "RETAIN fell from 80.0 to 74.9 %",
    ]
    assert choose([*curve, measured(40, 98, drift=0.5, RETAIN=75.0)], select).step == 40, "at the budget is inside it"
    assert choose(curve, SelectConfig(steps=10, max_drift=0.0, max_category_loss=100.0)).step == 20, "no limits"


def test_a_drift_that_is_no_number_is_beyond_any_budget() -> None:
    assert choose([measured(0, 40), measured(10, 99, drift=float("nan"))], SelectConfig(steps=10)).step == 0


def test_where_nothing_is_better_the_model_before_training_is_kept() -> None:
    assert choose([measured(0, 40), measured(10, 40), measured(20, 12)], SelectConfig(steps=10)) == Choice(0, None)


def by_hand(shares: list[float], patience: int) -> Choice:
    """Over prefixes: the first one whose last ``patience`` candidates are all no better than the best before them."""
    for end in range(1, len(shares)):
        best = max(range(end + 1), key=lambda at: (shares[at], -at))
        if patience and end - best >= patience:
            return Choice(best, end)
    return Choice(max(range(len(shares)), key=lambda at: (shares[at], -at)), None)


@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_patience_against_prefixes(patience: int) -> None:
    rng = random.Random(patience)
    for _ in range(300):
        shares = [float(rng.randrange(6)) for _ in range(rng.randrange(2, 9))]
        curve = [measured(step, share) for step, share in enumerate(shares)]
        select = SelectConfig(steps=1, patience=patience)
        choice = choose(curve, select)
        assert choice == by_hand(shares, patience), shares
        if choice.stopped is not None:  # however much further the training was, or was measured
            assert choose(curve[: choice.stopped + 1], select) == choice
            assert choose([*curve, measured(99, 100.0)], select) == choice


def test_a_candidates_figures_stand_beside_its_step_also_before_and_after_the_written_ones() -> None:
    rows = [{"step": 1, "steps": 4, "grad_norm": 1.0}, {"step": 2, "steps": 4, "grad_norm": 2.0}]
    merged = with_validations(rows, [measured(0, 40), measured(2, 90), measured(4, 95)])
    assert [row["step"] for row in merged] == [0, 1, 2, 4]
    assert [row.get("dev_tpa/all") for row in merged] == [40, None, 90, 95]
    assert [row.get("grad_norm") for row in merged] == [None, 1.0, 2.0, None]
    assert with_validations(rows, []) == rows
