"""What is random in training, an adapter's dropout and nothing of the base model's; and layers that run twice."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.model.decoder import causal_lm


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


def checkpoint_layers(model: Any) -> None:
    """Makes the decoder layers keep their inputs only and run again in the backward, whatever the model's mode.

    Args:
        model: a Hugging Face causal LM, with or without a PEFT adapter; dropout stays as it is.
    """
    causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False})
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
