"""What the engine's own arguments may not do: bring code, or weights that are code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trace_ray.errors import UserError

_CODE = ("trust_remote_code", "logits_processors", "distributed_executor_backend", "kv_transfer_config")
_CODE_ENDINGS = ("_cls", "_plugin")
_BUILT_IN = (False, None, "mp", "ray", "uni", "external_launcher")
"""Values of the above that name no code of the user's."""


def check_trust(where: str, name: str, asked: str) -> None:
    """Raises UserError unless a model's own code is asked for by that model's name, and can get here with it."""
    if asked and asked != name:
        raise UserError(
            f"{where}.trust_remote_code", asked, f"repeat the model's name, {name!r}, to run the code it brings"
        )
    if asked.startswith("s3://"):
        raise UserError(f"{where}.trust_remote_code", asked, "code is not read from S3; use a folder or a hub id")


def refuse_code(where: str, engine: Mapping[str, Any]) -> None:
    """Raises UserError for an argument of vLLM's engine that would import code by name or read pickled weights."""
    for name, value in engine.items():
        if (name in _CODE or name.endswith(_CODE_ENDINGS)) and not any(
            value is built_in or value == built_in for built_in in _BUILT_IN
        ):
            raise UserError(f"{where}.{name}", value, "models and engines that bring their own code are refused")
        if name == "load_format" and value != "safetensors":
            raise UserError(f"{where}.{name}", value, "weights are read from safetensors only")
