"""Categories of several terms, token by token among them: losses and gradients against plain float64 autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.realign import handmade
from tests.realign.test_policy_module import grouped, moved, slow_log_probs
from trace_ray.config import ObjectiveConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.model.loading import load_model
from trace_ray.objective.terms import pair_losses
from trace_ray.realign.policy_module import HybridPolicy

DEMO = conf_folder() / "examples" / "demo.yaml"
TERMS = (
    "objective.INVERT=[{loss: dpop, lambda: 2.0, beta: 0.5}, {loss: sft, weight: 0.7}]",
    "objective.PUNISH=[{loss: npo_saturating, margin: 0.4}, {loss: undial, gamma: 2.0, weight: 0.3, suppress: [chosen]}]",
    "objective.RETAIN=[{loss: kl}, {loss: sft, weight: 0.2}]",
)


@pytest.fixture(scope="module")
def objective() -> ObjectiveConfig:
    return load_config([DEMO], TERMS, method="trace").objective


def by_hand(category: str, policy: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], ids: Any) -> Any:
    """A row's loss written out from log-probs over the vocabulary at each token, shape (N, V)."""
    of = {n: p.gather(-1, torch.tensor(ids[n])[:, None])[:, 0] for n, p in policy.items()}
    ref = {n: p.gather(-1, torch.tensor(ids[n])[:, None])[:, 0] for n, p in reference.items()}
    softplus = torch.nn.functional.softplus
    match category:
        case "INVERT":
            p, s = ((of[n] - ref[n]).sum() for n in ("rejected", "chosen"))
            return softplus(-0.5 * (p - s - 2.0 * (-p).clamp(min=0))) - 0.7 * of["rejected"].mean()
        case "PUNISH":
            npo = sum(softplus(0.3 * (of[n] - ref[n]).clamp(min=-0.4).sum()) for n in ("chosen", "rejected"))
            onehot = torch.nn.functional.one_hot(torch.tensor(ids["chosen"]), policy["chosen"].shape[1])
            target = (reference["chosen"] - 2.0 * onehot).softmax(-1)
            return npo - 0.3 * (target * policy["chosen"]).sum(-1).mean()
        case _:
            kl = (reference["chosen"].exp() * (reference["chosen"] - policy["chosen"])).sum(-1).mean()
            return kl - 0.2 * of["chosen"].mean()


def test_losses_and_gradients_of_lists_equal_float64_autograd(tmp_path: Path, objective: ObjectiveConfig) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    rows = handmade.scored_rows(load_model(config.model), 9)
    model, exact = moved(load_model(config.model), config.lora), moved(load_model(config.model), config.lora).double()
    batch = grouped(rows, objective)
    assert len(batch.groups) > 2
    logp_S, token_KS = HybridPolicy(model)(batch.groups)
    losses = pair_losses(batch, logp_S, token_KS, objective)
    expected = []
    for row in batch.rows:
        names = objective.sequences(row["category"])
        ids = {name: row[f"{name}_ids"] for name in names}
        policy = {n: slow_log_probs(exact, row["prompt_ids"], ids[n]) for n in names}
        with torch.no_grad(), exact.disable_adapter():
            reference = {n: slow_log_probs(exact, row["prompt_ids"], ids[n]) for n in names}
        expected.append(by_hand(row["category"], policy, reference, ids))
    assert losses.loss_P.tolist() == pytest.approx([value.item() for value in expected], rel=2e-4)
    trained = [p for p in model.parameters() if p.requires_grad]
    exactly = [p for p in exact.parameters() if p.requires_grad]
    found = torch.autograd.grad(losses.loss_P.sum(), trained)
    for mine, slow in zip(found, torch.autograd.grad(sum(expected), exactly), strict=True):
        torch.testing.assert_close(mine.double(), slow, rtol=2e-3, atol=2e-4 * float(slow.abs().max()))
