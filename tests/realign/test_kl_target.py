"""alpha_kl driven to a target KL: the constrained optimum of a problem that is known, and a training that goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.realign import handmade
from trace_ray.config import ObjectiveConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.objective.dual import FACTOR, SPAN, STEPS, next_alpha
from trace_ray.objective.reduction import Denominators, reduce_losses
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.realign import training as module
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.engine import PlainEngine
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.training import Training


def objective(*settings: str) -> ObjectiveConfig:
    return load_config([conf_folder() / "methods" / "trace.yaml"], ["policy.text=Be brief.", *settings]).objective


def descend(wanted: float, target: float, steps: int = 4000) -> tuple[float, float]:
    """Gradient descent on 1/2 (x - wanted)^2 + alpha 1/2 x^2, x^2 / 2 being the KL, alpha from 0.1; returns x and alpha."""
    x, rows = 0.0, list[dict[str, Any]]()
    for step in range(steps):
        alpha = next_alpha(rows, 0.1, target, 0.05)
        rows.append({"step": step, "alpha_kl": alpha, "RETAIN/loss": x * x / 2, "RETAIN/pairs": 3})
        x -= 0.05 * ((x - wanted) + alpha * x)
    return x, rows[-1]["alpha_kl"]


@pytest.mark.parametrize(("wanted", "target"), [(3.0, 0.5), (3.0, 2.0), (1.5, 0.08)])
def test_it_ends_at_the_constrained_optimum(wanted: float, target: float) -> None:
    """Lagrange: x = sqrt(2 target), and alpha = (wanted - x) / x, for whatever alpha it began with."""
    x, alpha = descend(wanted, target)
    assert x == pytest.approx((2 * target) ** 0.5, rel=1e-3)
    assert alpha == pytest.approx((wanted - x) / x, rel=1e-3)


def test_a_constraint_that_does_not_bind_costs_next_to_nothing() -> None:
    """The best x has a KL of 0.5: alpha falls to its lower end, and x is what that leaves of it."""
    x, alpha = descend(1.0, 5.0)
    assert alpha == pytest.approx(0.1 / SPAN)
    assert x == pytest.approx(1 / (1 + 0.1 / SPAN), rel=1e-6)


def test_what_cannot_be_reached_ends_at_the_upper_end_and_no_step_is_larger_than_asked() -> None:
    far = {"alpha_kl": 0.1, "RETAIN/loss": 1e9, "RETAIN/pairs": 1}
    assert next_alpha([far], 0.1, 0.01, 0.05) == pytest.approx(0.1 * 2.718281828459045 ** (0.05 * (FACTOR - 1)))
    assert next_alpha([far | {"alpha_kl": 9.99}], 0.1, 0.01, 0.05) == 0.1 * SPAN
    near = far | {"RETAIN/loss": 0.0}
    assert next_alpha([near], 0.1, 0.01, 0.05) == pytest.approx(0.1 * 2.718281828459045 ** (0.05 * (1 / FACTOR - 1)))


@pytest.mark.parametrize(("sigma", "within"), [(0.5, 0.02), (1.0, 0.03), (1.5, 0.1)])
def test_what_scatters_from_step_to_step_is_held_to_the_target_in_the_mean(sigma: float, within: float) -> None:
    """A step's KL is target (0.1 / alpha)^2 times lognormal noise of mean 1, as a few pairs' mean scatters."""
    noise = np.random.default_rng(0).lognormal(-sigma * sigma / 2, sigma, 6000)
    rows = list[dict[str, Any]]()
    for scatter in noise.tolist():
        alpha = next_alpha(rows[-STEPS:], 0.1, 0.2, 0.05)
        rows.append({"alpha_kl": alpha, "RETAIN/loss": 0.2 * (0.1 / alpha) ** 2 * scatter, "RETAIN/pairs": 2})
    assert float(np.mean([row["RETAIN/loss"] for row in rows])) == pytest.approx(0.2, rel=within)


def test_the_mean_is_over_the_pairs_of_the_last_steps_that_held_anchors() -> None:
    kls = [9.0, *(0.1 * n for n in range(1, STEPS + 1))]
    rows: list[dict[str, Any]] = [{"alpha_kl": 0.1, "RETAIN/loss": kl, "RETAIN/pairs": n} for n, kl in enumerate(kls)]
    rows[1]["RETAIN/pairs"] = 40
    for at in (8, 3):
        rows.insert(at, {"alpha_kl": 0.1, "INVERT/loss": 9.0})
    pairs = [kl for kl, n in zip(kls[1:], (40, *range(2, STEPS + 1)), strict=True) for _ in range(n)]
    expected = 0.1 * float(np.exp(0.05 * (np.mean(pairs) / 0.4 - 1)))
    assert next_alpha(rows, 0.1, 0.4, 0.05) == pytest.approx(expected, rel=1e-12)


def test_a_step_without_anchors_and_a_run_without_target_leave_it() -> None:
    assert next_alpha([{"alpha_kl": 0.3, "INVERT/loss": 1.0}], 0.1, 0.01, 0.05) == 0.3
    assert next_alpha([{"RETAIN/loss": 1.0, "RETAIN/pairs": 1}], 0.1, 0.0, 0.05) == 0.1
    assert next_alpha([], 0.1, 0.01, 0.05) == 0.1


def test_a_training_uses_what_its_figures_say_and_goes_on_from_them_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = objective("objective.kl_target=0.001", "objective.kl_step=0.5")
    config = handmade.tiny_config(handmade.tiny_model(tmp_path), settings, epochs=4, learning_rate=3e-2)
    model = load_model(config.model)
    policy = HybridPolicy(new_adapter(model, config.lora, 0))
    rows = TrainingRows.of(pa.Table.from_pylist(handmade.scored_rows(model, 12), schema=SCORED_SCHEMA), settings)
    made = Training(rows, settings, config.realign, lambda steps: PlainEngine(policy, config.realign, steps))
    used = list[tuple[int, float]]()

    def noted(losses: Any, by: Denominators, weighed: Any) -> Any:
        used.append((made.step + 1, by.alpha_kl))
        return reduce_losses(losses, by, weighed)

    monkeypatch.setattr(module, "reduce_losses", noted)
    made.run(lambda: None)
    assert {(row["step"], row["alpha_kl"]) for row in made.metrics} == set(used)
    assert made.metrics[0]["alpha_kl"] == settings.alpha_kl
    changed = [row["alpha_kl"] for row in made.metrics]
    assert min(changed) < settings.alpha_kl < max(changed), "below the target at first, above it later"
    again = Training(rows, settings, config.realign, lambda _: made.engine)
    for number, row in enumerate(made.metrics):  # as a checkpoint's cursor keeps them
        again.metrics = json.loads(json.dumps(made.metrics[:number]))
        assert again.alpha_kl == row["alpha_kl"]


def test_without_a_target_none_of_that_is_asked() -> None:
    more = ["impact.retain_per_conflict=0", "realign.shares={INVERT: 0.5, PUNISH: 0.5}"]
    assert objective(*more).kl_target == 0
    assert objective("objective.kl_target=0.1", "realign.shares={INVERT: 0.5, RETAIN: 0.5}").kl_target == 0.1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["objective.RETAIN={loss: dpo, prefer: chosen, suppress: [rejected]}"],
            "objective.kl_target: 0.1: it is the mean",
        ),
        (["objective.RETAIN=[{loss: kl}, {loss: sft}]"], "objective.kl_target: 0.1: it is the mean"),
        (["objective.retain=pair"], "objective.kl_target: 0.1: it is the mean"),
        (["objective.RETAIN=[{loss: kl, weight: 2.0}]"], "objective.kl_target: 0.1: RETAIN's kl has a weight"),
        (["objective.alpha_kl=0"], "objective.alpha_kl: 0: objective.kl_target changes it by factors"),
        (["objective.weights=u2a"], "objective.kl_target: 0.1: each of u2a's rounds"),
        (["impact.retain_per_conflict=0"], "impact.retain_per_conflict: 0.0: no RETAIN pair would be drawn"),
        (
            ["realign.shares={INVERT: 0.5, PUNISH: 0.5}"],
            "realign.shares: {'INVERT': 0.5, 'PUNISH': 0.5}: no RETAIN pair",
        ),
        (["objective.kl_step=0"], "objective.kl_step: 0"),
        (["objective.kl_target=-1"], "objective.kl_target: -1"),
    ],
)
def test_a_target_needs_a_kl_to_go_by(more: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        objective("objective.kl_target=0.1", *more)
    assert str(refused.value).startswith(said)
