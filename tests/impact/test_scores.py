"""eps scores against the slow obvious oracle: one autograd call a response."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trace_ray.config import LoraSettings
from trace_ray.impact.scores import score_batch
from trace_ray.log_probs import collate, response_log_probs
from trace_ray.models import new_adapter

SEQUENCES = [([1, 5, 7], [9, 2]), ([1, 4], [3, 8, 6, 11, 2]), ([1], [2]), ([1, 2, 3, 4, 5], [6, 7, 13])]


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=31, num_key_value_heads=2, **shape)).eval()


def adapted(*, at_init: bool) -> Any:
    model = new_adapter(tiny_llama(), LoraSettings(r=4, alpha=8, target_modules=("q_proj", "down_proj")), 0).eval()
    if not at_init:
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("at_init", [True, False], ids=["B = 0", "away from it"])
def test_scores_equal_per_sample_autograd(at_init: bool) -> None:
    model = adapted(at_init=at_init)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    torch.manual_seed(7)
    direction = {name: torch.randn_like(p) for name, p in trainable.items()}
    expected_s, expected_logp = [], []
    for prompt, response in SEQUENCES:
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
        logp = sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(response))
        gradients = torch.autograd.grad(logp, list(trainable.values()))
        expected_s.append(sum(float((g * direction[n]).sum()) for n, g in zip(trainable, gradients, strict=True)))
        expected_logp.append(float(logp))
    model.requires_grad_(False)
    logp_B, s_B = score_batch(model, collate([p for p, _ in SEQUENCES], [r for _, r in SEQUENCES]), direction)
    assert s_B.tolist() == pytest.approx(expected_s, rel=1e-4)
    assert logp_B.tolist() == pytest.approx(expected_logp, rel=1e-5)


def test_batch_composition_and_padding_do_not_change_a_score() -> None:
    model = adapted(at_init=False)
    direction = {n: torch.ones_like(p) for n, p in model.named_parameters() if p.requires_grad}
    model.requires_grad_(False)
    _, together = score_batch(model, collate([p for p, _ in SEQUENCES], [r for _, r in SEQUENCES]), direction)
    alone = [score_batch(model, collate([p], [r]), direction)[1].item() for p, r in SEQUENCES]
    assert together.tolist() == pytest.approx(alone, rel=1e-4)


def test_log_probs_leave_the_prompt_out() -> None:
    model = tiny_llama()
    whole = response_log_probs(model, collate([[1]], [[4, 9, 3]]))
    later = response_log_probs(model, collate([[1, 4]], [[9, 3]]))
    first = model(torch.tensor([[1]])).logits[0, 0].log_softmax(-1)[4]
    assert (whole - later).item() == pytest.approx(first.item(), rel=1e-4)
