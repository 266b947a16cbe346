"""Impacts of every loss of the objective's table against autograd on the loss itself, at theta_ref and away from it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.impact import tiny
from trace_ray.config import ImpactConfig, ObjectiveConfig, TermConfig
from trace_ray.impact.shard import Selection, score_tokens
from trace_ray.objective.slopes import pair_slopes
from trace_ray.rounds import gains

PAIR: dict[str, Any] = {"prefer": "rejected", "suppress": ("chosen",)}
B, TAU, E = 0.7, 0.4, 0.2
LOSSES: dict[str, tuple[TermConfig, dict[str, Any]]] = {
    "dpo": (TermConfig(loss="dpo", **PAIR), {}),
    "ipo_sum": (TermConfig(loss="ipo_sum", **PAIR), {}),
    "ipo": (TermConfig(loss="ipo", **PAIR), {}),
    "rdpo": (TermConfig(loss="rdpo", **PAIR), {"label_noise": E}),
    "npo": (TermConfig(loss="npo", suppress=("chosen",)), {}),
    "npo per token": (TermConfig(loss="npo", suppress=("chosen",)), {"length_norm": True}),
    "npo on both": (TermConfig(loss="npo", suppress=("chosen", "rejected")), {"npo_scale": True}),
    "sft": (TermConfig(loss="sft", prefer="rejected"), {}),
}


def by_hand(name: str, r_w: torch.Tensor, r_l: torch.Tensor, n_w: int, n_l: int, logp_l: torch.Tensor) -> torch.Tensor:
    """The losses written out by hand; w = chosen (suppressed), l = rejected (preferred)."""
    d = r_l - r_w

    def sigmoid(z: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + torch.exp(-z))

    match name:
        case "dpo":
            return -torch.log(sigmoid(B * d))
        case "ipo_sum":
            return (d - 1 / (2 * TAU)) ** 2
        case "ipo":
            return (r_l / n_l - r_w / n_w - 1 / (2 * TAU)) ** 2
        case "rdpo":
            return (-(1 - E) * torch.log(sigmoid(B * d)) + E * torch.log(sigmoid(-B * d))) / (1 - 2 * E)
        case "npo":
            return -torch.log(sigmoid(-B * r_w))
        case "npo per token":
            return -torch.log(sigmoid(-B * r_w / n_w))
        case "npo on both":
            return (-torch.log(sigmoid(-B * r_w)) - torch.log(sigmoid(-B * r_l))) * 2 / B
        case "sft":
            return -logp_l / n_l
    raise AssertionError(name)


def loss_gains(rows: list[dict[str, Any]], objective: ObjectiveConfig, model: Any, direction: Any) -> list[float]:
    """Scores rows where the model is, and returns their gains there, as U2A's rounds do."""
    scored = score_tokens(rows, Selection(objective, 1.0, 0), model, direction, ImpactConfig(share_prompts=False))
    return list(gains(pa.Table.from_pylist(rows), scored, objective))


@pytest.mark.parametrize("at_ref", [True, False], ids=["at theta_ref", "away"])
@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("name", LOSSES)
def test_gains_equal_autograd_of_the_loss(name: str, parameters: str, at_ref: bool) -> None:
    model = tiny.llama() if parameters == "full" else tiny.adapted(tiny.llama(), at_init=at_ref)
    term, settings = LOSSES[name]
    objective = ObjectiveConfig(INVERT=term, beta=B, tau=TAU, **settings)
    direction = tiny.random_direction(model)
    rows, expected = [], []
    for i, (prompt, response) in enumerate(tiny.SEQUENCES):
        sides = {"chosen": [4, 4, 9][: 1 + i % 3], "rejected": response}
        logp = {side: tiny.log_prob(model, prompt, ids) for side, ids in sides.items()}
        off = {"chosen": 0.0, "rejected": 0.0} if at_ref else {"chosen": 0.8 - i, "rejected": 1.1 * i - 1.7}
        ref = {side: float(logp[side]) - off[side] for side in sides}
        ratio = {side: logp[side] - ref[side] for side in sides}
        sizes = len(sides["chosen"]), len(sides["rejected"])
        loss = by_hand(name, ratio["chosen"], ratio["rejected"], *sizes, logp["rejected"])
        expected.append(tiny.derivative(model, loss, direction))
        rows.append(
            {"row": i, "pair_id": str(i), "category": "INVERT", "prompt_ids": prompt}
            | {f"{side}_ids": ids for side, ids in sides.items()}
            | {f"{side}_ref_logp": value for side, value in ref.items()}
        )
    model.requires_grad_(False)
    found = loss_gains(rows, objective, model, direction)
    assert tiny.relative_error(found, expected) <= 1e-4


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (TermConfig(loss="dpo", **PAIR), {"rejected": -0.15, "chosen": 0.15}),
        (TermConfig(loss="npo", suppress=("chosen", "rejected")), {"chosen": 0.15, "rejected": 0.15}),
        (TermConfig(loss="ipo_sum", **PAIR), {"rejected": -1 / 0.3, "chosen": 1 / 0.3}),
        (TermConfig(loss="ipo", **PAIR), {"rejected": -1 / 0.3 / 4, "chosen": 1 / 0.3 / 4}),
        (TermConfig(loss="kl", prefer="chosen"), {"chosen": 0.0}),
        (TermConfig(loss="sft", prefer="chosen"), {"chosen": -0.25}),
    ],
)
def test_slopes_at_the_reference_are_the_closed_forms(term: TermConfig, expected: dict[str, float]) -> None:
    row = {"category": "INVERT", "chosen_ids": [1] * 4, "rejected_ids": [2] * 4}
    (slopes,) = pair_slopes([row], ObjectiveConfig(INVERT=term, beta=0.3, tau=0.3))
    assert slopes == pytest.approx(expected)


def test_a_gain_predicts_the_change_of_j() -> None:
    """U2A: a small step down a pair's loss changes J by -step x gamma x gain: the product of their gradients by autograd."""
    from trace_ray.impact.direction import gold_gradient

    model = tiny.llama().double()
    gold = [{"prompt_ids": [1, 3], "preferred_ids": [5, 6], "dispreferred_ids": [9, 2, 4]}]
    reference = [(-6.0, -9.0)]
    direction = gold_gradient(model, gold, beta=B, batch_tokens=64, reference=reference)
    objective = ObjectiveConfig(INVERT=TermConfig(loss="npo", suppress=("chosen",)), beta=B)
    row = {
        "row": 0,
        "pair_id": "0",
        "category": "INVERT",
        "prompt_ids": [1, 4],
        "chosen_ids": [3, 8, 6],
        "chosen_ref_logp": -7.0,
    }
    logp = [tiny.log_prob(model, gold[0]["prompt_ids"], gold[0][f"{s}_ids"]) for s in ("preferred", "dispreferred")]
    j = -torch.nn.functional.logsigmoid(B * (logp[0] - reference[0][0] - logp[1] + reference[0][1]))
    loss = -torch.nn.functional.logsigmoid(-B * (tiny.log_prob(model, [1, 4], [3, 8, 6]) + 7.0))
    of_j, of_loss = (torch.autograd.grad(one, list(model.parameters())) for one in (j, loss))
    slope = sum(float((a * b).sum()) for a, b in zip(of_j, of_loss, strict=True))
    gain = loss_gains([row], objective, model.float().requires_grad_(False), direction)[0]
    assert gain == pytest.approx(slope, rel=1e-4)


def test_kl_has_no_impact_at_theta_ref_and_is_refused_elsewhere() -> None:
    model = tiny.llama()
    objective = ObjectiveConfig(INVERT=TermConfig(loss="kl", prefer="rejected"))
    direction = tiny.random_direction(model)
    logp = float(tiny.log_prob(model, [1, 4], [3, 8]))
    row = {"row": 0, "pair_id": "0", "category": "INVERT", "prompt_ids": [1, 4], "rejected_ids": [3, 8]}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="kl away"):
        loss_gains([row | {"rejected_ref_logp": logp - 1}], objective, model, direction)
