"""How many tokens a model can see at once, from its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Where the families keep it."""

_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Rotary scalings whose factor is in the number already."""


def context_length(known: Any) -> int | None:
    """Returns the tokens that vLLM will run a model with at most; None where the configuration names no limit.

    Source: vLLM's ``_get_and_verify_max_len`` and ``derive_max_model_len_and_key``.

    Args:
        known: of transformers, the model's configuration.
    """
    text = known.get_text_config()
    found = [value for name in _NAMES if isinstance(value := getattr(text, name, None), int) and value > 0]
    if not found:
        return None
    longest = getattr(text, "model_max_length", None) or min(found)
    if "gemma3" not in known.model_type:
        for rope in _ropes(text):
            if rope.get("rope_type", rope.get("type")) not in _SCALED_ALREADY:
                longest *= rope.get("factor") or 1.0
    own = getattr(known, "model_max_length", None) or 0
    return max(int(longest), int(own))


def _ropes(text: Any) -> Iterator[Mapping[str, Any]]:
    """The first rotary setting; where layers of several kinds have their own, they share their factor."""
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    nested = [part for part in rope.values() if isinstance(part, Mapping)]
    yield from (nested or [rope])[:1]
