"""In training nothing of a base model is random, and an adapter's dropout is; an adapter that is off."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model import families
from trace_ray.config import LoraSettings
from trace_ray.model.loading import new_adapter
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.modes import adapter_off, training_mode
from trace_ray.model.packing import pack_each

BATCH = pack_each([([1, 5, 7, 44], [9, 2, 60]), ([1, 4], [3, 8, 6, 11, 2])])
TARGETS = {"gpt2": "c_attn", "bloom": "query_key_value", "opt": "q_proj"}


def log_probs(model: Any) -> torch.Tensor:
    return response_log_probs(model, BATCH).detach()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", TARGETS)
def test_a_base_model_drops_nothing_in_training(family: str, checkpointing: bool) -> None:
    """Dropout as modules, in functional calls of attention, and of a layer that is checkpointed."""
    base = families.make(family)
    expected = log_probs(base)
    base.train()
    assert not torch.allclose(log_probs(base), expected, atol=1e-3)
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = new_adapter(base, LoraSettings(target_modules=(TARGETS[family],)), 0)
    training_mode(model)
    assert torch.allclose(log_probs(model), expected, atol=1e-5)
    with model.disable_adapter():
        assert torch.allclose(log_probs(model), expected, atol=1e-5)


def test_checkpointed_layers_are_run_again_and_an_adapter_drops() -> None:
    model = new_adapter(families.make("gpt2"), LoraSettings(dropout=0.5, target_modules=("c_attn",)), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    training_mode(model)
    assert not torch.allclose(log_probs(model), log_probs(model), atol=1e-3)
    runs = []
    layer = model.get_base_model().transformer.h[0].mlp
    layer.register_forward_pre_hook(lambda *_: runs.append(1))
    response_log_probs(model, BATCH).sum().backward()  # type: ignore[no-untyped-call]
    assert len(runs) == 2


@pytest.mark.parametrize("family", ["llama", *TARGETS])
def test_an_adapter_that_is_off_leaves_the_base_and_its_gradients(family: str) -> None:
    """As PEFT's own context does; an error in it leaves the adapter on."""
    base = families.make(family)
    expected = log_probs(base)
    model = new_adapter(base, LoraSettings(target_modules=(TARGETS.get(family, "q_proj"),)), 0).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    on, trained = log_probs(model), [name for name, p in model.named_parameters() if p.requires_grad]
    assert not torch.allclose(on, expected, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(log_probs(model), expected)
    with adapter_off(model), adapter_off(model):
        assert torch.equal(log_probs(model), expected)
    with pytest.raises(ZeroDivisionError), adapter_off(model):
        1 / 0  # noqa: B018
    assert torch.equal(log_probs(model), on)
    assert trained == [name for name, p in model.named_parameters() if p.requires_grad]
