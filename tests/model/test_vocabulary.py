"""Log-probs from chunks of logits against the dense formula, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trace_ray.model import vocabulary
from trace_ray.model.vocabulary import Head, chunked_log_probs, tokens_at_once


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_equal_the_whole(scale: float, softcap: float, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * 40)
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, requires_grad=True)
    weight = torch.randn(13, 6, requires_grad=True)
    offset = torch.randn(13, requires_grad=True) if bias else None
    target, upstream = torch.randint(0, 13, (11,)), torch.randn(11)
    wanted = [hidden, weight, *([offset] if offset is not None else [])]
    logits = scale * torch.nn.functional.linear(hidden, weight, offset)
    logits = torch.tanh(logits / softcap) * softcap if softcap else logits
    expected = logits.log_softmax(-1)[torch.arange(11), target]
    found = chunked_log_probs(hidden, Head(weight, offset, softcap, scale), target)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    slow = torch.autograd.grad((expected * upstream).sum(), wanted)
    fast = torch.autograd.grad((found * upstream).sum(), wanted)
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_more_logits_are_held_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * 64)
    seen: list[int] = []
    real = vocabulary.logits_and_slope

    def watched(hidden: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor | float]:
        logits = real(hidden, head)
        seen.append(logits[0].numel())
        return logits

    monkeypatch.setattr(vocabulary, "logits_and_slope", watched)
    hidden = torch.randn(37, 4, requires_grad=True)
    head = Head(torch.randn(16, 4, requires_grad=True), None, 0.0)
    chunked_log_probs(hidden, head, torch.zeros(37, dtype=torch.long)).sum().backward()  # type: ignore[no-untyped-call]
    assert max(seen) <= 64
    assert sum(seen) == 2 * 37 * 16  # once forward, once more for the weight's gradient


@pytest.mark.parametrize(("device", "expected"), [("cpu", 130), ("cuda", 523)])
def test_a_chunk_is_sized_in_bytes_of_logits(device: str, expected: int) -> None:
    """Of Llama 3's vocabulary, 64 MiB on a CPU and 256 MiB on a GPU; at least one token of any."""

    class Weight:
        def __init__(self) -> None:
            self.device = torch.device(device)

    weight: Any = Weight()
    assert tokens_at_once(weight, 128256) == expected
    assert tokens_at_once(weight, 2**40) == 1
