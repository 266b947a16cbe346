"""Sft's loss and what is watched of a step, by hand; and how much of real lengths is padding."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from trace_ray.config import ObjectiveConfig, RealignConfig, TermConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.objective.batch import micro_batch
from trace_ray.objective.terms import PairLosses, pair_losses
from trace_ray.realign.figures import StepSums, named_figures
from trace_ray.realign.layout import plan_step
from trace_ray.realign.order import StepPlan

DEMO = conf_folder() / "examples" / "demo.yaml"


def row(category: str, weight: float, responses: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """A scored row of a prompt of 3 tokens; responses: name -> (tokens, reference log-prob)."""
    made: dict[str, Any] = {"category": category, "weight": weight, "prompt_ids": [1, 2, 3]}
    for name, (tokens, logp) in responses.items():
        made |= {f"{name}_ids": [5] * tokens, f"{name}_ref_logp": logp}
    return made


def test_sft_is_the_mean_negative_log_prob_of_a_token() -> None:
    objective = ObjectiveConfig(INVERT=TermConfig(loss="sft", prefer="rejected"))
    rows = [row("INVERT", 1.0, {"rejected": (tokens, 0.0)}) for tokens in (4, 2)]
    logp_S = torch.tensor([-6.0, -5.0], requires_grad=True)
    losses = pair_losses(micro_batch(rows, objective), logp_S, torch.zeros(1, 2), objective)
    assert losses.loss_P.tolist() == [6 / 4, 5 / 2]
    (slope,) = torch.autograd.grad(losses.loss_P.sum(), logp_S)
    assert slope.tolist() == [-1 / 4, -1 / 2]


def test_figures_of_a_step_by_hand_over_two_workers() -> None:
    """INVERT raises rejected and lowers chosen, PUNISH lowers both, RETAIN has a KL alone."""
    objective = ObjectiveConfig(beta=0.5)
    responses = {"chosen": (4, -3.0), "rejected": (2, -1.0)}
    parts = []
    for weight in (2.0, 0.5):
        rows = [row("INVERT", weight, responses), row("PUNISH", 1.0, responses), row("RETAIN", 1.0, responses)]
        batch = micro_batch(rows, objective)
        logp_S, kl_KS = torch.zeros(5), torch.zeros(1, 5)
        for (number, name), value in {
            (0, "rejected"): 1.0,
            (0, "chosen"): -5.0,
            (1, "chosen"): -4.0,
            (1, "rejected"): -3.0,
        }.items():
            logp_S[batch.place[number, name]] = value
        kl_KS[0, batch.place[2, "chosen"]] = 0.25
        losses: PairLosses = pair_losses(batch, logp_S, kl_KS, objective)
        sums = StepSums()
        sums.add(batch, losses)
        parts.append(sums.tensor())
    figures = named_figures(parts[0] + parts[1])
    # INVERT: r(rejected) = 2, r(chosen) = -2; PUNISH: r = -1 and -2, rewards -0.5 and -1.
    expected = {"INVERT/pairs": 2, "INVERT/weight": 1.25, "INVERT/reward_raised": 1.0, "INVERT/reward_lowered": -1.0}
    expected |= {"INVERT/margin": 2.0, "INVERT/loss": 0.126928, "INVERT/weighted_loss": 1.25 * 0.126928}
    expected |= {"PUNISH/reward_lowered": -0.75, "PUNISH/loss": 0.474077 + 0.313262, "PUNISH/reward_raised": 0.0}
    expected |= {"RETAIN/loss": 0.25, "RETAIN/margin": 0.0, "RETAIN/weight": 1.0}
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    real, padded = 2 * (7 + 5 + 7 + 5 + 7), 2 * 5 * 7
    assert figures["tokens"] == real
    assert figures["padding"] == pytest.approx(1 - real / padded, abs=1e-4)


SETTINGS = {
    "defaults": RealignConfig(),
    "defaults, 4 workers": RealignConfig(workers=4),
    **{path.stem: load_config([DEMO, path]).realign for path in sorted((conf_folder() / "zero").glob("*.yaml"))},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_less_than_a_tenth_is_padding(name: str) -> None:
    """Lengths as unlike as people write them: log-normal, a prompt and two responses of 10 to 1000 tokens."""
    rng = random.Random(0)
    realign = SETTINGS[name]

    def draw() -> int:
        return min(1000, max(10, round(rng.lognormvariate(4.5, 0.9))))

    lengths = [[prompt + draw(), prompt + draw()] for prompt in (draw() for _ in range(20 * realign.batch))]
    category = tuple(rng.choice(("INVERT", "PUNISH", "RETAIN")) for _ in lengths)
    tokens = tuple(max(lengths_of_step) for lengths_of_step in lengths)
    plan = StepPlan(
        category=category, tokens=tokens, seed=0, epochs=1, batch=realign.batch, window=realign.length_window
    )
    real = padded = 0
    for number in range(plan.steps):
        mine = [lengths[i] for i in plan.step(number)]
        marks = [[False, False] for _ in mine]
        settings: dict[str, Any] = {"budget": realign.tokens, "overhead": realign.forward_overhead}
        for step in plan_step(mine, marks, [False] * len(mine), workers=realign.workers, **settings):
            for samples, groups in zip(step.samples, step.groups, strict=True):
                flat = [n for i in samples for n in mine[i]]
                real += sum(flat)
                padded += sum(len(group) * max(flat[s] for s in group) for group in groups if group)
    assert real == sum(map(sum, lengths))
    assert 1 - real / padded < 0.10
