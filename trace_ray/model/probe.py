"""Whether response log-probs made our way are those of a model's own logits, alone and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trace_ray.errors import UserError
from trace_ray.model.decoder import causal_lm
from trace_ray.model.head import OutputHead
from trace_ray.model.packing import PackedBatch, hidden_states, pack_each
from trace_ray.model.stand_in import TRIAL_TOKENS

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Nats by which a token's log-prob may differ; of bfloat16 the model rounds its own logits, of which 20 is off by 0.06."""


def trial_sequences(model: Any) -> tuple[list[int], list[list[int]]]:
    """Returns a prompt and two responses, of unlike lengths, in tokens that the model has."""
    rows = causal_lm(model).get_input_embeddings().weight.shape[0]
    tokens = [token % rows for token in TRIAL_TOKENS]
    return tokens[:9], [tokens[9:16], tokens[16:28]]


def check_log_probs(model: Any, path: str) -> None:
    """Raises UserError where log-probs of responses, alone or padded, are not those of the model's own logits.

    Args:
        model: a causal language model in evaluation mode, with or without adapter, on any device.
        path: what the user called it.
    """
    causal = causal_lm(model)
    head = OutputHead(model)
    prompt, responses = trial_sequences(model)
    device = causal.get_input_embeddings().weight.device
    with torch.no_grad():  # not inference mode: what a model caches meanwhile is trained with later
        own = torch.cat([own_log_probs(causal, prompt, response) for response in responses])
        alone = torch.cat([_ours(model, head, pack_each([(prompt, r)]).to(device)) for r in responses])
        padded = _ours(model, head, pack_each((prompt, r) for r in responses).to(device))
    limit = TOLERANCE.get(head.linear.weight.dtype, TOLERANCE[torch.bfloat16])
    for found, what in ((alone, "made from hidden states and output head"), (padded, "of padded rows")):
        difference = float((found - own).abs().max())
        if not difference <= limit:
            name = type(causal).__name__
            remedy = f"{name} is not supported: log-probs {what} differ by {difference:.2g} nats from its own logits'"
            raise UserError("model.path", path, f"{remedy}; use a model of another family")


def own_log_probs(causal: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Returns log pi of each token of the response, float32, from the model's own forward of that sequence alone."""
    device = causal.get_input_embeddings().weight.device
    logits = causal(input_ids=torch.tensor([[*prompt, *response]], device=device), use_cache=False).logits
    log_probs = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    own: torch.Tensor = log_probs.gather(1, torch.tensor(list(response), device=device)[:, None])[:, 0]
    return own


def _ours(model: Any, head: OutputHead, batch: PackedBatch) -> torch.Tensor:
    return head.log_probs(hidden_states(model, batch), batch.target_N)
