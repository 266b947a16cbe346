"""What is random in training, an adapter's dropout and nothing of the base model's; layers that run twice; an adapter off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trace_ray.config.fields import SELECTIVE
from trace_ray.model.decoder import causal_lm
from trace_ray.model.selective import kept_and_made_again

_OFF = "_disable_adapters"
"""PEFT's own name, which its layers look at in each forward."""


def training_mode(model: torch.nn.Module) -> None:
    """Puts an adapter's dropout into training mode and the base model into evaluation mode.

    A base model's dropout would make the reference, the same weights with the adapter off, another at each forward, and
    the first loss of a pair something else than its value at theta_ref.
    """
    model.eval()
    for module in model.modules():
        for dropout in getattr(module, "lora_dropout", {}).values():
            dropout.train()
    let_checkpoint(model)


@contextmanager
def adapter_off(model: torch.nn.Module) -> Iterator[None]:
    """Runs a PEFT model as its base.

    PEFT's own context first asks each layer how it is and freezes the adapter meanwhile: 90 ms of a CPU at an 8B model's 224
    layers, several times a step, while the card has nothing to do.
    """
    before = [(module, getattr(module, _OFF)) for module in model.modules() if hasattr(module, _OFF)]
    try:
        for module, _ in before:
            setattr(module, _OFF, True)
        yield
    finally:
        for module, was in before:
            setattr(module, _OFF, was)


def checkpoint_layers(model: Any, how: bool | str = True) -> None:
    """Makes the decoder layers run again in the backward, whatever the model's mode.

    Args:
        model: a Hugging Face causal LM, with or without a PEFT adapter; dropout stays as it is.
        how: False = they keep all that the backward needs, and nothing is done here; True = their inputs only;
            ``selective`` = also what ``model.selective`` keeps, which is not run again.
    """
    if not how:
        return
    more = {"context_fn": kept_and_made_again} if how == SELECTIVE else {}
    causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False, **more})
    let_checkpoint(model)


def let_checkpoint(model: torch.nn.Module) -> None:
    """Puts modules that are to be checkpointed into training mode, themselves alone: transformers does it in that mode only.

    What such a module drops by itself is set to 0.
    """
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            _still(module)


def _still(module: Any) -> None:
    for name, value in list(vars(module).items()):
        if "drop" in name and isinstance(value, float):
            setattr(module, name, 0.0)
