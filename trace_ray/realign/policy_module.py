"""The policy as one module with one forward, so that ZeRO-3 sees the same forwards in the same order on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from trace_ray.model.head import OutputHead, TokenValue
from trace_ray.model.modes import adapter_off
from trace_ray.model.packing import PackedBatch, hidden_states
from trace_ray.objective.batch import SequenceGroup, TokenTerm


class HybridPolicy(torch.nn.Module):
    """A causal LM that yields log-probs of responses and what token by token compares with a reference.

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
        """Returns log pi(y|x) of each sequence of the groups in order, shape (S,), and of each token term its mean, (K, S).

        What no loss reads is not made: it is 0.

        Under ZeRO-3 every worker makes the same calls of the same modules: first the references, then the policy, group
        by group, then the head on all tokens at once; what a worker lacks is filler or no token at all.
        """
        references = self.references(groups)
        hidden = [hidden_states(self.model, group.batch) for group in groups]
        tokens = _Tokens.of(groups)
        hidden_ND = torch.cat(hidden)
        least, *least_K = self._chunks(len(tokens.scored), *(len(places) for places in tokens.compared_K))
        terms = groups[0].token_terms
        with self.head.whole():
            logp_M = self.head.log_probs(hidden_ND[tokens.scored], tokens.target_N[tokens.scored], least)
            values = [
                self.token_values(hidden_ND[places], self._value(term, places, tokens, groups, references), calls)
                for term, places, calls in zip(terms, tokens.compared_K, least_K, strict=True)
            ]
        none_S = hidden_ND.new_zeros(len(tokens.length_S), dtype=torch.float32)
        logp_S = none_S.index_add(0, tokens.sequence_N[tokens.scored], logp_M)
        sums = [none_S.index_add(0, tokens.sequence_N[at], v) for at, v in zip(tokens.compared_K, values, strict=True)]
        token_KS = torch.stack(sums) / tokens.length_S.clamp(min=1) if sums else none_S.new_zeros(0, len(none_S))
        # A filler has no loss. ZeRO-3 needs every module, and this one by as many outputs, in each worker's backward pass.
        none = 0.0 * hidden_ND.sum()
        return logp_S + none, token_KS + none

    def references(self, groups: Sequence[SequenceGroup]) -> list[torch.Tensor]:
        """Returns the reference's hidden states of each group in which any worker compares with it."""
        return [self._reference_hidden(group.reference) for group in groups if group.reference]

    def token_values(self, hidden_MD: torch.Tensor, value: TokenValue, least: int) -> torch.Tensor:
        """Returns a token term's value of each of its tokens, shape (M,); ``least`` as in ``OutputHead.per_token``."""
        return self.head.per_token(hidden_MD, value, least)

    def _chunks(self, *tokens: int) -> list[int]:
        """How often the head is called at least: as often as on the worker with most tokens, if each call gathers it."""
        if self.head.frozen or not self.head.sharded:
            return [0] * len(tokens)
        most = torch.tensor([-(-n // self.head.chunk) for n in tokens], device=next(self.model.parameters()).device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return [int(n) for n in most]

    def _value(
        self,
        summand: TokenTerm,
        places_M: torch.Tensor,
        tokens: _Tokens,
        groups: Sequence[SequenceGroup],
        references: Sequence[torch.Tensor],
    ) -> TokenValue:
        entry, p = summand.term.entry, summand.parameters
        anchor_M, target_M = tokens.anchor_N[places_M], tokens.target_N[places_M]
        stored = [group.top_k for group in groups if group.top_k]
        if stored and entry.top_k_value:
            of_top_k = entry.top_k_value
            ids_Mk, log_probs_Mk = (
                torch.cat([getattr(s, name) for s in stored])[anchor_M] for name in ("ids_Kk", "log_probs_Kk")
            )
            return lambda logits, at: of_top_k(logits, ids_Mk[at], log_probs_Mk[at], p)
        real = [group.anchored for group in groups if group.reference]
        kept = [hidden for hidden, anchored in zip(references, real, strict=True) if anchored]
        kept += [group.hidden_KD for group in groups if group.hidden_KD is not None]
        # Of no worker; the head may still be called, on no tokens.
        if entry.token_value is None or not (references or kept):
            return lambda logits, _at: logits.sum(-1)
        # Where only another worker compares, this one asks the reference's head too: ZeRO-3 gathers it on all or none.
        of_logits, hidden_MD = entry.token_value, torch.cat(kept)[anchor_M] if kept else references[0][:0]

        def value(logits_CV: torch.Tensor, at: slice) -> torch.Tensor:
            with torch.no_grad(), self._adapter_off() if not self.head.frozen else nullcontext():
                reference_CV = self.reference_head.logits(hidden_MD[at])
            return of_logits(logits_CV, reference_CV, target_M[at], p)

        return value

    def _adapter_off(self) -> AbstractContextManager[Any]:
        return adapter_off(self.model) if self.adapted else nullcontext()

    def _reference_hidden(self, batch: PackedBatch) -> torch.Tensor:
        model = self.model if self.reference is None else self.reference
        with torch.no_grad(), self._adapter_off():
            return hidden_states(model, batch)


@dataclass(frozen=True)
class _Tokens:
    """The response tokens of all groups, N of them, sequences numbered through.

    Args:
        scored: places of the tokens whose log-prob is taken; compared_K: of those that each token term reads.
        anchor_N: place of a token among all those that are compared with the reference; of no meaning for others.
        length_S: response tokens of each sequence.
    """

    sequence_N: torch.Tensor
    target_N: torch.Tensor
    scored: torch.Tensor
    compared_K: list[torch.Tensor]
    anchor_N: torch.Tensor
    length_S: torch.Tensor

    @classmethod
    def of(cls, groups: Sequence[SequenceGroup]) -> _Tokens:
        sequences, tokens, anchors = (
            list(accumulate(counts, initial=0))
            for counts in (
                [group.batch.responses for group in groups],
                [len(group.batch.target_N) for group in groups],
                [group.places.anchored for group in groups],
            )
        )
        return cls(
            sequence_N=_joined((group.batch.response_N for group in groups), sequences),
            target_N=torch.cat([group.batch.target_N for group in groups]),
            scored=_joined((group.places.scored for group in groups), tokens),
            compared_K=[
                _joined((group.places.compared_K[k] for group in groups), tokens)
                for k in range(len(groups[0].token_terms))
            ],
            anchor_N=_joined((group.places.anchor_N for group in groups), anchors),
            length_S=torch.cat([group.batch.length_S for group in groups]),
        )


def _joined(each: Iterable[torch.Tensor], first: Sequence[int]) -> torch.Tensor:
    """The groups' places, counted on through all of them."""
    return torch.cat([places + at for places, at in zip(each, first, strict=False)])
