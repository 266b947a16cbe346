"""Whether responses of one prompt share a row: where it pays, and where a family keeps the responses of a row apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trace_ray.model.decoder import causal_lm
from trace_ray.model.flat import runs_flat
from trace_ray.model.head import OutputHead
from trace_ray.model.packing import Packed, hidden_states, pack
from trace_ray.model.probe import trial_sequences
from trace_ray.model.stand_in import FITTING_ERRORS, stand_in
from trace_ray.model.windows import WINDOWS

AGREE = 1e-4
"""Nats of a token's log-prob, in float32."""

Pays = Callable[[Any, Sequence[Any]], Any]
"""(tokens of a prompt, tokens of each response) -> whether they are run as one row: of numbers, or of arrays (R,) of int64."""

_KNOWN: dict[tuple[type, str], bool] = {}


def sharing_rule(model: Any, *, allowed: bool = True) -> Pays:
    """Returns which responses are run as one row after one prompt: those for which it costs less; none if not ``allowed``.

    In flat rows it always does. The same on every worker that holds the model.
    """
    if runs_flat(model):
        return lambda _prompt, responses: allowed and len(responses) > 1
    config = causal_lm(model).config
    longest = longest_shared_row(config) if allowed and may_share_prompts(model) else 0
    width = config.get_text_config().hidden_size
    return lambda prompt, responses: _pays(prompt, responses, width, longest)


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
    head = OutputHead(model)
    prompt, responses = trial_sequences(model)
    alone = [pack([Packed(prompt, (response,))]) for response in responses]
    together = pack([Packed(prompt, tuple(responses))])
    with torch.inference_mode():
        expected = torch.cat([head.log_probs(hidden_states(model, batch), batch.target_N) for batch in alone])
        try:
            found = head.log_probs(hidden_states(model, together), together.target_N)
        except FITTING_ERRORS:
            return False
    return float((found - expected).abs().max()) <= AGREE


def sharing_pays(prompt: int, responses: Sequence[int], model_config: Any) -> bool:
    """Returns whether one row costs less than one a response, and may be run at all.

    Args:
        prompt, responses: tokens.
        model_config: of Hugging Face.
    """
    return bool(_pays(prompt, responses, model_config.get_text_config().hidden_size, longest_shared_row(model_config)))


def _pays(prompt: Any, responses: Sequence[Any], width: int, longest: float) -> Any:
    """One row saves the prompt's runs through the linears but attends over more, without the causal shortcut.

    Counted in multiplications a layer: about 12 D^2 a token for the linears, 2 T D a token for attention (half if causal).
    """
    row = prompt + sum(responses)
    if len(responses) < 2:
        return False
    linears = 12 * width * width
    alone = sum((prompt + y) * (linears + (prompt + y) * width) for y in responses)
    return (row <= longest) & (row * (linears + 2 * row * width) < alone)


def longest_shared_row(model_config: Any) -> float:
    """Returns how many tokens a row of several responses may have.

    A window narrower than the row rules it out, as it would be measured in places of the row, and so does an attention
    that takes no mask of ours.
    """
    if model_config._attn_implementation.startswith("flash"):  # noqa: SLF001 - it has no public reader
        return 0
    text = model_config.get_text_config()
    windows = [size for name in WINDOWS if isinstance(size := getattr(text, name, None), int) and size > 0]
    return min(windows, default=math.inf)
