"""The gold gradient against autograd on each pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.impact import tiny
from trace_ray.impact.direction import adapter_off_log_probs, gold_gradient

GOLD = [
    {"prompt_ids": prompt, "preferred_ids": response, "dispreferred_ids": [4, 9, 2, 7][: 1 + i]}
    for i, (prompt, response) in enumerate(tiny.SEQUENCES)
]


def flat(vector: dict[str, torch.Tensor]) -> list[float]:
    return torch.cat([value.flatten() for value in vector.values()]).tolist()


def slow(model: Any, offsets: list[tuple[float, float]]) -> list[float]:
    total: Any = 0.0
    for row, (a, b) in zip(GOLD, offsets, strict=True):
        prompt: Any = row["prompt_ids"]
        logp = [tiny.log_prob(model, prompt, row[f"{side}_ids"]) for side in ("preferred", "dispreferred")]
        margin = (logp[0] - logp[0].detach() + a) - (logp[1] - logp[1].detach() + b)
        total = total - torch.nn.functional.logsigmoid(0.3 * margin)
    gradients = torch.autograd.grad(total, list(tiny.trainable(model).values()), allow_unused=True)
    found = zip(tiny.trainable(model).values(), gradients, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in found]).tolist()


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_it_equals_autograd_pair_by_pair(family: str, parameters: str) -> None:
    base = tiny.FAMILIES[family]()
    model = base if parameters == "full" else tiny.adapted(base, at_init=True)
    found = gold_gradient(model, GOLD, beta=0.3, batch_tokens=40)
    assert tiny.relative_error(flat(found), slow(model, [(0.0, 0.0)] * len(GOLD))) <= 1e-4


def test_away_from_theta_ref_it_takes_the_reference() -> None:
    model = tiny.llama()
    offsets = [(0.5 * i, 1.0 - i) for i in range(len(GOLD))]
    reference = []
    for row, (a, b) in zip(GOLD, offsets, strict=True):
        prompt: Any = row["prompt_ids"]
        logp = [float(tiny.log_prob(model, prompt, row[f"{side}_ids"])) for side in ("preferred", "dispreferred")]
        reference.append((logp[0] - a, logp[1] - b))
    found = gold_gradient(model, GOLD, beta=0.3, batch_tokens=40, reference=reference)
    assert tiny.relative_error(flat(found), slow(model, offsets)) <= 1e-4


def test_the_reference_of_a_trained_adapter_is_the_model_without_it() -> None:
    base = tiny.llama()
    expected = [
        [float(tiny.log_prob(base, row["prompt_ids"], row[f"{side}_ids"])) for side in ("preferred", "dispreferred")]
        for row in GOLD
    ]
    model = tiny.adapted(base, at_init=False)
    moved = [float(tiny.log_prob(model, row["prompt_ids"], row["preferred_ids"])) for row in GOLD]
    found = torch.tensor(adapter_off_log_probs(model, GOLD, batch_tokens=40))
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)
    assert not torch.allclose(found[:, 0], torch.tensor(moved), atol=1e-2)


def test_shards_of_the_gold_batch_add_up() -> None:
    model = tiny.gemma2()
    whole = flat(gold_gradient(model, GOLD, beta=0.3, batch_tokens=40))
    parts = [torch.tensor(flat(gold_gradient(model, [row], beta=0.3, batch_tokens=400))) for row in GOLD]
    assert tiny.relative_error(torch.stack(parts).sum(0).tolist(), whole) <= 1e-4
