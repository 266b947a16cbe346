"""Whether responses of one prompt may share a row: where a family's states run along the row, they may not."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.impact.packing import Packed, hidden_states, pack
from trace_ray.model.log_probs import causal_lm
from trace_ray.model.probe import trial_sequences
from trace_ray.model.stand_in import FITTING_ERRORS, stand_in
from trace_ray.model.vocabulary import chunked_log_probs, output_head

AGREE = 1e-4
"""Nats of a token's log-prob, in float32."""

_KNOWN: dict[tuple[type, str], bool] = {}


def may_share_prompts(model: Any) -> bool:
    """Returns whether a response in a shared row gets what it gets alone, tried on a small model of the family, once.

    Recurrent and convolutional states (Mamba, Qwen3-Next, LFM2) pass from one response to the next; ALiBi's distances
    (BLOOM, MPT) are counted along the row; some families take no mask of ours.
    """
    causal = causal_lm(model)
    key = type(causal), causal.config.to_json_string()
    if key not in _KNOWN:
        small = stand_in(*key[:1], causal.config)
        _KNOWN[key] = small is not None and shared_rows_agree(small)
    return _KNOWN[key]


def shared_rows_agree(model: Any) -> bool:
    """Returns whether each response of a packed row has the log-probs that it has alone.

    Args:
        model: a small causal language model in float32, in evaluation mode.
    """
    head = output_head(causal_lm(model))
    if head is None:
        return False
    prompt, responses = trial_sequences(model)
    alone = [pack([Packed(prompt, (response,))]) for response in responses]
    together = pack([Packed(prompt, tuple(responses))])
    with torch.inference_mode():
        expected = torch.cat([chunked_log_probs(hidden_states(model, one), head, one.target_N) for one in alone])
        try:
            found = chunked_log_probs(hidden_states(model, together), head, together.target_N)
        except FITTING_ERRORS:
            return False
    return float((found - expected).abs().max()) <= AGREE
