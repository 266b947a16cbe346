"""Which models run flat rows, and the batches of rows as a model runs them.

Flat: all rows of a batch one after the other, without padding (``model.attention``). On a GPU one long row keeps it busy
where many batches of like lengths do not; on a CPU padded rows are quicker, as attention has no kernel for the former.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from trace_ray.errors import UserError
from trace_ray.model.attention import FLAT, register
from trace_ray.model.batches import token_batches
from trace_ray.model.decoder import causal_lm
from trace_ray.model.head import OutputHead
from trace_ray.model.packing import Packed, hidden_states, pack
from trace_ray.model.probe import own_log_probs, trial_sequences
from trace_ray.model.stand_in import FITTING_ERRORS, stand_in
from trace_ray.model.windows import WINDOWS

AGREE = 1e-4
"""Nats of a token's log-prob, in float32."""
_NARROW = 5
"""Tokens that a window is cut to where a family is tried, fewer than the sequences have."""

_KNOWN: dict[tuple[type, str], bool] = {}


def choose_packing(model: Any, packing: str, device: torch.device | str) -> bool:
    """Has the model run flat rows where that is asked for, or pays; returns whether it does.

    Args:
        model: a causal LM with or without adapter; ``sdpa`` is its attention.
        packing: ``flat``, ``rows``, or ``auto`` = flat on a GPU in bfloat16.
        device: where it will run.
    Raises: UserError where flat rows are asked for and the family does not keep their sequences apart.
    """
    causal = causal_lm(model)
    narrow = next(causal.parameters()).dtype == torch.bfloat16
    if packing == "rows" or (packing == "auto" and not (torch.device(device).type == "cuda" and narrow)):
        return False
    if not may_run_flat(model):
        if packing == "flat":
            attention = causal.config._attn_implementation  # noqa: SLF001 - it has no public reader
            remedy = f"{type(causal).__name__} with attention {attention} does not keep such sequences apart: use auto"
            raise UserError("model.packing", packing, remedy)
        return False
    _switch(causal)
    return True


def runs_flat(model: Any) -> bool:
    """Returns whether ``choose_packing`` has chosen flat rows for the model."""
    return bool(causal_lm(model).config._attn_implementation == FLAT)  # noqa: SLF001 - it has no public reader


def may_run_flat(model: Any) -> bool:
    """Returns whether each response in a flat row gets what it gets alone, tried on a small model of the family, once."""
    causal = causal_lm(model)
    if causal.config._attn_implementation != "sdpa":  # noqa: SLF001 - it has no public reader
        return runs_flat(model)
    key = type(causal), causal.config.to_json_string()
    if key not in _KNOWN:
        _KNOWN[key] = all(
            small is not None and flat_rows_agree(small)
            for small in (stand_in(type(causal), config) for config in (causal.config, _narrow(causal.config)))
        )
    return _KNOWN[key]


def flat_rows_agree(model: Any) -> bool:
    """Returns whether each response of a flat row has the log-probs of the model's own logits for it alone.

    Args:
        model: a small causal language model in float32, in evaluation mode; it runs flat rows afterwards.
    """
    prompt, responses = trial_sequences(model)
    rows = [Packed(prompt, tuple(responses)), *(Packed(prompt, (response,)) for response in responses)]
    batch = pack(rows, flat=True)
    with torch.inference_mode():
        expected = torch.cat([own_log_probs(model, prompt, response) for response in responses] * 2)
        _switch(model)
        try:
            found = OutputHead(model).log_probs(hidden_states(model, batch), batch.target_N)
        except FITTING_ERRORS:
            return False
    return bool((found - expected).abs().max() <= AGREE)


def batch_places(lengths: Sequence[int], max_tokens: int, *, flat: bool) -> list[list[int]]:
    """Returns the places of rows in batches of at most ``max_tokens`` tokens, or one row; padding included, unless flat."""
    return _filled(lengths, max_tokens) if flat else token_batches(lengths, max_tokens)


def _filled(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Returns the places in order, in batches of about equal tokens.

    >>> _filled([3, 3, 3, 3], 9)
    [[0, 1], [2, 3]]
    """
    parts = -(-sum(lengths) // max_tokens)
    batches: list[list[int]] = []
    filled = 0
    for place, length in enumerate(lengths):
        if not batches or filled + length > max_tokens or filled * parts >= sum(lengths):
            batches.append([])
            filled = 0
        batches[-1].append(place)
        filled += length
    return batches


def _narrow(config: Any) -> Any:
    """Returns the configuration with windows that the trial's sequences do not fit in."""
    narrow = copy.deepcopy(config)
    text = narrow.get_text_config()
    for name in WINDOWS:
        if isinstance(size := getattr(text, name, None), int) and size > _NARROW:
            setattr(text, name, _NARROW)
    return narrow


def _switch(causal: Any) -> None:
    register()
    causal.set_attn_implementation(FLAT)
