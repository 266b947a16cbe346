"""Fused steps give what transformers and PEFT give, log-probs and gradients, and are not put where they would not."""

from __future__ import annotations

from subprocess import CalledProcessError
from typing import Any

import pytest
import torch

from tests.impact import tiny
from tests.model.test_packing import MAKE, PAIRS, TARGETS, close, gradients
from trace_ray.config import LoraSettings
from trace_ray.model import fused
from trace_ray.model.fused import fuse, how_run
from trace_ray.model.loading import new_adapter
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.modes import checkpoint_layers, training_mode
from trace_ray.model.packing import pack_each

BATCH = pack_each((prompt, response) for prompt, *pair in PAIRS for response in pair)
WEIGHT_S = torch.linspace(-1.0, 2.0, 2 * len(PAIRS))
TWO_LAYERS = {"norms": 5, "activations": 2, "adapters": 14}
PLACED = {"llama": TWO_LAYERS, "qwen2": TWO_LAYERS, "mistral": TWO_LAYERS, "qwen3": TWO_LAYERS | {"norms": 9}}
PLACED |= {"gemma2": {"adapters": 14}, "gemma3": {"adapters": 14}, "phi3": {"norms": 5, "adapters": 8}}
"""Gemma's norms and activation are others; phi3's gate is fused already."""


def values(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logp_S = response_log_probs(model, BATCH)
    return logp_S.detach(), gradients(model, (logp_S * WEIGHT_S).sum())


def placed(model: Any) -> dict[str, int]:
    words = how_run(model)["kernels"]
    return {} if words == "none" else {name: int(n) for n, name in (part.split() for part in words.split(", "))}


@pytest.mark.parametrize("name", PLACED)
def test_fused_is_what_it_stands_for(name: str) -> None:
    model = tiny.adapted(MAKE[name](), at_init=False, targets=TARGETS.get(name, tiny.ALL_LINEARS))
    own = values(model)
    fuse(model, "fused", "cpu")
    assert placed(model) == PLACED[name]
    for found, expected in zip(values(model), own, strict=True):
        close(found, expected)
    with torch.no_grad(), model.disable_adapter():
        off = response_log_probs(model, BATCH)
    with torch.no_grad():
        close(off, response_log_probs(model.unload(), BATCH))


def test_dropout_and_checkpointed_layers_are_what_they_were() -> None:
    def drawn(kernels: str) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        lora = LoraSettings(r=4, alpha=8, dropout=0.5, target_modules=("q_proj", "down_proj"))
        model = new_adapter(tiny.FAMILIES["llama"](), lora, 0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
        checkpoint_layers(model)
        training_mode(model)
        fuse(model, kernels, "cpu")
        assert placed(model).get("adapters", 0) == (4 if kernels == "fused" else 0)
        torch.manual_seed(3)
        return values(model)

    expected, found = drawn("torch"), drawn("fused")
    for mine, other in zip(found, expected, strict=True):
        close(mine, other)


def test_nothing_is_fused_where_it_is_not_asked_for_or_weights_are_in_parts() -> None:
    for kernels, sharded in (("auto", False), ("torch", False), ("fused", True)):
        model = tiny.adapted(tiny.FAMILIES["llama"](), at_init=False)
        fuse(model, kernels, "cpu", sharded=sharded)
        assert placed(model) == {}
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_module_that_computes_something_else_under_the_same_names_stays() -> None:
    """A gate of another activation, and a norm that adds 1 to its weight: both have the attributes that are looked for."""
    from transformers.activations import ACT2FN

    model = tiny.FAMILIES["llama"]()
    layers = model.model.layers
    layers[0].mlp.act_fn = ACT2FN["gelu"]
    norm = layers[1].input_layernorm
    own = type(norm).forward
    norm.forward = lambda x: own(norm, x) + x
    expected = response_log_probs(model, BATCH)
    fuse(model, "fused", "cpu")
    assert placed(model) == {"norms": 4, "activations": 1}
    close(response_log_probs(model, BATCH), expected)


def test_without_a_compiler_modules_keep_their_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is told that one was fused."""

    def compiled(*_: Any, **__: Any) -> Any:
        def fails(*_: Any) -> torch.Tensor:
            raise CalledProcessError(1, "cc")

        return fails

    monkeypatch.setattr(torch, "compile", compiled)
    assert fused._compiled_activation.__wrapped__(torch.device("cpu")) is None
    monkeypatch.setattr(fused, "_activation", None)
    model = tiny.FAMILIES["llama"]()
    fuse(model, "fused", "cpu")
    assert placed(model) == {"norms": 5}


def test_a_trained_base_keeps_its_adapter_as_it_is() -> None:
    """The fused product makes no gradient of the base's weight."""
    model = tiny.adapted(tiny.FAMILIES["llama"](), at_init=False)
    model.requires_grad_(True)
    fuse(model, "fused", "cpu")
    assert "adapters" not in placed(model)
