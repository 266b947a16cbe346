"""Random weights on disk: a model's folder of a shape, as fast as the disk takes it."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

_BLOCK = (1 << 24) + 43
"""Random numbers that are made, and written again and again: every tensor begins elsewhere in them."""


def roomy_folder(size: int) -> str:
    """Returns a new folder in memory (/dev/shm) where three times ``size`` bytes are free there, else among temporary files."""
    memory = Path("/dev/shm")
    free = shutil.disk_usage(memory).free if memory.is_dir() else 0
    return tempfile.mkdtemp(prefix="gpu-check-", dir=memory if free > 3 * size else None)


def bf16_bytes(config: Any) -> int:
    """Returns the size of the shape's weights in bfloat16."""
    return sum(2 * math.prod(shape) for shape in shapes(config).values())


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Returns {name on disk: shape} of a causal language model's weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def write_model(folder: str, config: Any, tokenizer: str) -> None:
    """Writes config.json, the tokenizer and bfloat16 weights: ones for norms, else of a normal distribution, sd 0.02.

    The weights are one block of random numbers repeated: layers differ by where in it they begin.
    """
    import torch
    from transformers import AutoTokenizer

    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    names = shapes(config)
    header, at = {}, 0
    for name, shape in names.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    torch.manual_seed(0)
    block = _bytes(torch.randn(min(_BLOCK, max(map(math.prod, names.values())))) * 0.02)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, shape in enumerate(names.values()):
            left = 2 * math.prod(shape)
            if len(shape) == 1:
                file.write(_bytes(torch.ones(shape)))
                continue
            start = 2 * (1_000_003 * number) % len(block)
            while left:
                piece = block[start : start + left]
                file.write(piece)
                left, start = left - len(piece), 0


def _bytes(values: Any) -> memoryview:
    import torch

    return memoryview(values.bfloat16().view(torch.int16).numpy()).cast("B")
