"""Tensors of the host sent to where a model stands: on a GPU without waiting for what it still computes.

A plain copy to a GPU waits until the card has done everything that was asked of it before, and so does each small tensor
that is made there of Python numbers. From pinned memory a copy only queues up behind that work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns the tensor on ``device``; itself where it stands there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def placed(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Returns the numbers as a tensor on ``device``.

    >>> placed([0, 2], torch.long, torch.device("cpu"))
    tensor([0, 2])
    """
    return sent(torch.tensor(values, dtype=dtype), device)
