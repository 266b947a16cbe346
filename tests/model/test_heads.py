"""Log-probs through our own head against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from tests.model import families
from trace_ray.impact.packing import Packed, hidden_states, pack
from trace_ray.model.log_probs import collate, output_logits, response_hidden, response_log_probs
from trace_ray.model.vocabulary import output_head
from trace_ray.realign.head import OutputHead

SEQUENCES = [([1, 5, 7, 44], [9, 2, 60]), ([1, 4], [3, 8, 6, 11, 2])]
BENT = {"falcon_h1": 0.5, "granite": 0.25, "cohere": 0.25, "nanochat": 1.0, "gemma3 for images": 1.0}
BENT |= {"gemma4 for images": 1.0, "llama4": 1.0}


@pytest.mark.parametrize("family", BENT)
def test_log_probs_are_those_of_the_models_own_logits(family: str) -> None:
    """Multipliers of logits, soft caps of a text part in a larger configuration, a decoder that must be looked for."""
    model = families.make(family).requires_grad_(False)
    head = output_head(model)
    assert head is not None
    assert head.scale == BENT[family]
    prompts, responses = zip(*SEQUENCES, strict=True)
    batch = collate(prompts, responses)
    own = [model(torch.tensor([[*p, *r]])).logits[0, len(p) - 1 : -1].float() for p, r in SEQUENCES]
    expected = torch.stack(
        [z.log_softmax(-1).gather(1, torch.tensor(r)[:, None]).sum() for z, (_, r) in zip(own, SEQUENCES, strict=True)]
    )
    assert torch.allclose(response_log_probs(model, batch), expected, atol=1e-4)
    hidden = response_hidden(model, batch)
    for logits in (output_logits(model, hidden), OutputHead(model).logits(hidden)):
        assert torch.allclose(logits, torch.cat(own), atol=1e-4)
    packed = pack([Packed(p, (r,)) for p, r in SEQUENCES])
    assert torch.allclose(hidden_states(model, packed), hidden, atol=1e-4)
