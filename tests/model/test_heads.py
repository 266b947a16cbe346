"""Log-probs through our own head against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from tests.model import families
from trace_ray.model.head import OutputHead
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import hidden_states, pack_each

SEQUENCES = [([1, 5, 7, 44], [9, 2, 60]), ([1, 4], [3, 8, 6, 11, 2])]
BENT = {"falcon_h1": 0.5, "granite": 0.25, "cohere": 0.25, "nanochat": 1.0, "gemma3 for images": 1.0}
BENT |= {"gemma4 for images": 1.0, "llama4": 1.0}


@pytest.mark.parametrize("family", BENT)
def test_log_probs_are_those_of_the_models_own_logits(family: str) -> None:
    """Multipliers of logits, soft caps of a text part in a larger configuration, a decoder that must be looked for."""
    model = families.make(family).requires_grad_(False)
    head = OutputHead(model)
    assert head.weights().scale == BENT[family]
    batch = pack_each(SEQUENCES)
    own = [model(torch.tensor([[*p, *r]])).logits[0, len(p) - 1 : -1].float() for p, r in SEQUENCES]
    expected = torch.stack(
        [z.log_softmax(-1).gather(1, torch.tensor(r)[:, None]).sum() for z, (_, r) in zip(own, SEQUENCES, strict=True)]
    )
    assert torch.allclose(response_log_probs(model, batch), expected, atol=1e-4)
    assert torch.allclose(head.logits(hidden_states(model, batch)), torch.cat(own), atol=1e-4)
