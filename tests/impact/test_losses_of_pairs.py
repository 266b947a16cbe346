"""Impacts of every loss of the objective's table against autograd on the loss itself, at theta_ref and away from it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.impact import tiny
from trace_ray.config import ImpactConfig, ObjectiveConfig, TermConfig
from trace_ray.errors import UserError
from trace_ray.impact.shard import Selection, score_tokens
from trace_ray.objective.slopes import pair_slopes
from trace_ray.u2a import gains

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
    "dpop": (TermConfig(loss="dpop", **PAIR), {}),
    "cal_dpo": (TermConfig(loss="cal_dpo", **PAIR), {}),
    "simnpo": (TermConfig(loss="simnpo", suppress=("chosen",), parameters={"gamma": 0.3}), {}),
    "dpo and half sft": (
        TermConfig(loss="dpo", also=[TermConfig(loss="sft", prefer="rejected", parameters={"weight": 0.5})], **PAIR),
        {},
    ),
}


def by_hand(  # noqa: C901 - a case a loss
    name: str, r_w: torch.Tensor, r_l: torch.Tensor, n_w: int, n_l: int, logp_w: torch.Tensor, logp_l: torch.Tensor
) -> torch.Tensor:
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
        case "dpop":
            return -torch.log(sigmoid(B * (d - 5 * (-r_l).clamp(min=0))))
        case "cal_dpo":
            return -torch.log(sigmoid(d)) + (r_l - 1 / (2 * B)) ** 2 + (r_w + 1 / (2 * B)) ** 2
        case "simnpo":
            return -2 / 2.5 * torch.log(sigmoid(-2.5 * logp_w / n_w - 0.3))
        case "dpo and half sft":
            return -torch.log(sigmoid(B * d)) - 0.5 * logp_l / n_l
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
        off = (
            {"chosen": 0.0, "rejected": 1e-3 * (name == "dpop")}
            if at_ref
            else {"chosen": 0.8 - i, "rejected": 1.1 * i - 1.7}
        )
        ref = {side: float(logp[side]) - off[side] for side in sides}
        ratio = {side: logp[side] - ref[side] for side in sides}
        sizes = len(sides["chosen"]), len(sides["rejected"])
        loss = by_hand(name, ratio["chosen"], ratio["rejected"], *sizes, logp["chosen"], logp["rejected"])
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
        (TermConfig(loss="dpop", **PAIR), {"rejected": -0.15, "chosen": 0.15}),
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


TOKEN_TERMS = {
    "npo_saturating": TermConfig(loss="npo_saturating", suppress=("chosen", "rejected")),
    "undial": TermConfig(loss="undial", suppress=("chosen", "rejected"), parameters={"gamma": 1.5}),
    "simnpo on both": TermConfig(loss="simnpo", suppress=("chosen", "rejected")),
    "undial, simnpo and kl": TermConfig(
        loss="undial",
        suppress=("chosen",),
        parameters={"gamma": 1.5},
        also=[
            TermConfig(loss="simnpo", suppress=("rejected",), parameters={"weight": 3.0}),
            TermConfig(loss="kl", prefer="rejected"),
        ],
    ),
}


def token_loss_by_hand(name: str, model: Any, prompt: list[int], sides: dict[str, list[int]]) -> torch.Tensor:
    """At theta_ref: the reference is the model itself, without gradient."""

    def logits(ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
        return found

    def undial(ids: list[int]) -> torch.Tensor:
        found = logits(ids)
        onehot = torch.nn.functional.one_hot(torch.tensor(ids), tiny.VOCABULARY)
        target = (found.detach() - 1.5 * onehot).softmax(-1)
        return -(target * found.log_softmax(-1)).sum(-1).mean()

    logp = {n: tiny.log_prob(model, prompt, ids) for n, ids in sides.items()}
    match name:
        case "npo_saturating":
            moved = torch.stack([value - value.detach() for value in logp.values()])
            return torch.nn.functional.softplus(B * moved).sum()
        case "undial":
            return undial(sides["chosen"]) + undial(sides["rejected"])
        case "simnpo on both":
            means = torch.stack([value / len(sides[side]) for side, value in logp.items()])
            return 2 / 2.5 * torch.nn.functional.softplus(2.5 * means).sum()
    mean = logp["rejected"] / len(sides["rejected"])
    return undial(sides["chosen"]) + 3.0 * 2 / 2.5 * torch.nn.functional.softplus(2.5 * mean)


@pytest.mark.parametrize("share_prompts", [False, True])
@pytest.mark.parametrize("score_norm", ["none", "per_token"])
@pytest.mark.parametrize("name", TOKEN_TERMS)
def test_impacts_of_token_losses_equal_autograd(name: str, score_norm: str, share_prompts: bool) -> None:
    model = tiny.adapted(tiny.llama(), at_init=False)
    objective = ObjectiveConfig(INVERT=TOKEN_TERMS[name], beta=B)
    direction = tiny.random_direction(model)
    rows, expected = [], []
    for i, (start, response) in enumerate(tiny.SEQUENCES):
        prompt = start * 12 if share_prompts else start  # long enough that one row costs less
        sides = {"chosen": [4, 4, 9], "rejected": response if score_norm == "none" else [7, 2, 2]}
        loss = token_loss_by_hand(name, model, prompt, sides)
        expected.append(tiny.derivative(model, loss, direction) / (3 if score_norm == "per_token" else 1))
        ids = {f"{side}_ids": ids for side, ids in sides.items()}
        rows.append({"pair_id": str(i), "category": "INVERT", "prompt_ids": prompt, **ids})
    model.requires_grad_(False)
    config = ImpactConfig(score_norm=score_norm, share_prompts=share_prompts)
    found = score_tokens(rows, Selection(objective, 1.0, 0), model, direction, config)["impact"].to_pylist()
    assert tiny.relative_error(found, expected) <= 1e-4


def test_cosine_takes_no_slope_that_only_log_probs_tell() -> None:
    objective = ObjectiveConfig(INVERT=LOSSES["simnpo"][0])
    row = {"pair_id": "0", "category": "INVERT", "prompt_ids": [1, 4], "chosen_ids": [3, 8]}
    model = tiny.adapted(tiny.llama(), at_init=True)
    direction = tiny.random_direction(model)
    with pytest.raises(UserError, match=r"impact\.score_norm: cosine: .*use none or per_token"):
        score_tokens([row], Selection(objective, 1.0, 0), model, direction, ImpactConfig(score_norm="cosine"))


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
    of_j, of_loss = (torch.autograd.grad(value, list(model.parameters())) for value in (j, loss))
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
