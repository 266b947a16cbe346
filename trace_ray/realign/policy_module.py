"""The policy as one module with one forward, so that ZeRO-3 sees the same forwards in the same order on every rank."""

from __future__ import annotations

from typing import Any

import torch

from trace_ray.log_probs import SequenceBatch, response_logits, sum_by_sequence, target_log_probs
from trace_ray.losses import token_kl


class HybridPolicy(torch.nn.Module):
    """A PEFT model that yields log-probs of responses and their KL to itself without the adapter.

    The reference is the same weights with the adapter off: no second copy of the model is held.
    """

    def __init__(self, peft_model: Any) -> None:
        super().__init__()
        self.peft_model = peft_model

    def forward(
        self, policy: SequenceBatch, reference: SequenceBatch, kl_tokens_K: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (log pi(y|x) of each policy sequence, shape (B,); mean token KL of each reference sequence).

        Args:
            policy: all sequences of the micro-batch.
            reference: those to anchor, or filler.
            kl_tokens_K: places of the reference's response tokens among the policy's; empty for filler.
        """
        with torch.no_grad(), self.peft_model.disable_adapter():
            reference_logits_KV = response_logits(self.peft_model, reference)
        logits_NV = response_logits(self.peft_model, policy)
        logp_B = sum_by_sequence(target_log_probs(logits_NV, policy.target_N), policy)
        if not len(kl_tokens_K):
            return logp_B, logp_B.new_zeros(reference.size)
        kl_K = token_kl(logits_NV[kl_tokens_K], reference_logits_KV)
        return logp_B, sum_by_sequence(kl_K, reference) / reference.lengths_B().clamp(min=1)


def kl_tokens(policy: SequenceBatch, reference_sequence: list[int]) -> torch.Tensor:
    """Returns the places of the reference sequences' response tokens among the policy's tokens, in order, shape (K,)."""
    found = [torch.nonzero(policy.sequence_N == s).flatten() for s in reference_sequence]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
