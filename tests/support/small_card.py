"""A card that some batches do not fit on, for tests without one."""

from __future__ import annotations

from typing import Any

import torch

PLENTY = 10_000


class Card:
    """A model's decoder on a card with room for so many tokens at once."""

    def __init__(self, model: Any) -> None:
        self.room, self.refused, self.seen = PLENTY, 0, list[int]()
        decoder = model.get_base_model().get_decoder() if hasattr(model, "get_base_model") else model.get_decoder()
        decoder.register_forward_pre_hook(self._forward, with_kwargs=True)

    def _forward(self, _module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        tokens = named["input_ids"].numel()
        if tokens > self.room:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen.append(tokens)
