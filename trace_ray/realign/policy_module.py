"""The policy as one module with one forward, so that ZeRO-3 sees the same forwards in the same order on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from trace_ray.model.head import OutputHead, TokenValue
from trace_ray.model.packing import PackedBatch, hidden_states
from trace_ray.objective.losses import token_kl, top_k_kl
from trace_ray.objective.terms import SequenceGroup


class HybridPolicy(torch.nn.Module):
    """A causal LM that yields log-probs of responses and their KL to a reference.

    Args:
        model: with a PEFT adapter, whose reference is the same weights with the adapter off; or trained in full.
        reference: a frozen copy for full fine-tuning; None for an adapter, or where reference distributions are stored.
            As a part of this module it is sharded by ZeRO-3 with the rest.
    """

    def __init__(self, model: Any, reference: Any = None) -> None:
        super().__init__()
        self.model, self.reference = model, reference
        self.adapted = hasattr(model, "disable_adapter")
        self.head = OutputHead(model)
        self.reference_head = OutputHead(reference) if reference is not None else self.head

    def forward(self, groups: Sequence[SequenceGroup]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (log pi(y|x), mean token KL) of each sequence of the groups in order, both shape (S,).

        Log-probs of anchored sequences and KLs of the others are not made: they are 0.

        Under ZeRO-3 every worker makes the same calls of the same modules: first the references, then the policy, group
        by group, then the head on all tokens at once; what a worker lacks is filler or no token at all.
        """
        references = self.references(groups)
        hidden = [hidden_states(self.model, group.batch) for group in groups]
        tokens = _Tokens.of(groups)
        hidden_ND = torch.cat(hidden)
        scored_ND, anchored_ND = hidden_ND[tokens.scored], hidden_ND[tokens.anchored]
        scored_chunks, anchored_chunks = self._chunks(len(scored_ND), len(anchored_ND))
        target_M = tokens.target_N[tokens.scored]
        with self.head.whole():
            logp_M = self.head.log_probs(scored_ND, target_M, scored_chunks)
            kl_K = self.token_kls(anchored_ND, groups, references, anchored_chunks)
        none_S = hidden_ND.new_zeros(len(tokens.length_S), dtype=torch.float32)
        logp_S = none_S.index_add(0, tokens.sequence_N[tokens.scored], logp_M)
        kl_S = none_S.index_add(0, tokens.sequence_N[tokens.anchored], kl_K) / tokens.length_S.clamp(min=1)
        # A filler has no loss. ZeRO-3 needs every module, and this one by as many outputs, in each worker's backward pass.
        none = 0.0 * hidden_ND.sum()
        return logp_S + none, kl_S + none

    def references(self, groups: Sequence[SequenceGroup]) -> list[torch.Tensor]:
        """Returns the reference's hidden states of each group that any worker takes a KL in."""
        return [self._reference_hidden(group.reference) for group in groups if group.reference]

    def token_kls(
        self,
        anchored_ND: torch.Tensor,
        groups: Sequence[SequenceGroup],
        references: Sequence[torch.Tensor],
        least: int,
    ) -> torch.Tensor:
        """Returns the KL of each anchored token, shape (N,); ``least`` as in ``OutputHead.per_token``."""
        return self.head.per_token(anchored_ND, self._kl(groups, references), least)

    def _chunks(self, *tokens: int) -> list[int]:
        """How often the head is called at least: as often as on the worker with most tokens, if each call gathers it."""
        if self.head.frozen or not self.head.sharded:
            return [0] * len(tokens)
        most = torch.tensor([-(-n // self.head.chunk) for n in tokens], device=next(self.model.parameters()).device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return [int(n) for n in most]

    def _kl(self, groups: Sequence[SequenceGroup], references: Sequence[torch.Tensor]) -> TokenValue:
        stored = [group.top_k for group in groups if group.top_k]
        if stored:
            ids_Kk, log_probs_Kk = (
                torch.cat([getattr(s, name) for s in stored]) for name in ("ids_Kk", "log_probs_Kk")
            )
            return lambda logits, at: top_k_kl(logits, ids_Kk[at], log_probs_Kk[at])
        real = [group.anchored for group in groups if group.reference]
        kept = [hidden for hidden, anchored in zip(references, real, strict=True) if anchored]
        if not references:  # no worker takes a KL here; the head may still be called, on no tokens
            return lambda logits, _at: logits.sum(-1)
        hidden_KD = torch.cat(kept) if kept else references[0][:0]

        def kl(logits_CV: torch.Tensor, at: slice) -> torch.Tensor:
            with torch.no_grad(), self._adapter_off() if not self.head.frozen else nullcontext():
                reference_CV = self.reference_head.logits(hidden_KD[at])
            return token_kl(logits_CV, reference_CV)

        return kl

    def _adapter_off(self) -> AbstractContextManager[Any]:
        if not self.adapted:
            return nullcontext()
        off: AbstractContextManager[Any] = self.model.disable_adapter()
        return off

    def _reference_hidden(self, batch: PackedBatch) -> torch.Tensor:
        model = self.model if self.reference is None else self.reference
        with torch.no_grad(), self._adapter_off():
            return hidden_states(model, batch)


@dataclass(frozen=True)
class _Tokens:
    """The response tokens of all groups, N of them, sequences numbered through.

    Args:
        scored, anchored: places of the tokens whose log-prob and of those whose KL is taken.
        length_S: response tokens of each sequence.
    """

    sequence_N: torch.Tensor
    target_N: torch.Tensor
    scored: torch.Tensor
    anchored: torch.Tensor
    length_S: torch.Tensor

    @classmethod
    def of(cls, groups: Sequence[SequenceGroup]) -> _Tokens:
        first, sequences, marks = 0, [], []
        for group in groups:
            sequence_N = group.batch.response_N
            sequences.append(sequence_N + first)
            marks.append(torch.isin(sequence_N, torch.tensor(group.anchored, dtype=torch.long).to(sequence_N)))
            first += group.batch.responses
        anchored_N, sequence_N = torch.cat(marks), torch.cat(sequences)
        lengths = torch.cat([group.batch.length_S for group in groups])
        targets = torch.cat([group.batch.target_N for group in groups])
        scored, anchored = (torch.nonzero(mark).flatten() for mark in (~anchored_N, anchored_N))
        return cls(sequence_N, targets, scored, anchored, lengths)
