"""Gradient checkpointing in evaluation mode."""

from __future__ import annotations

from typing import Any

from trace_ray.model.decoder import causal_lm
from trace_ray.model.modes import let_checkpoint


def checkpoint_layers(model: Any) -> None:
    """Makes the decoder layers keep their inputs only and run again in the backward.

    Transformers checkpoints layers in training mode alone, so the layers themselves, but nothing in them, are put into
    it: dropout stays off.
    """
    causal_lm(model).gradient_checkpointing_enable({"use_reentrant": False})
    let_checkpoint(model)
