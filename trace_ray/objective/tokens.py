"""What is known of a group's tokens before its forward: which are asked for what, and their stored reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trace_ray.model.transfer import sent


@dataclass(frozen=True)
class TopK:
    """Stored reference distributions of K tokens.

    Args:
        ids_Kk: the k likeliest tokens; log_probs_Kk: of these, in nats.
    """

    ids_Kk: torch.Tensor
    log_probs_Kk: torch.Tensor

    def to(self, device: torch.device) -> TopK:
        return TopK(sent(self.ids_Kk, device), sent(self.log_probs_Kk, device))


@dataclass(frozen=True)
class TokenPlaces:
    """Which of the N response tokens of a group are asked for what; found on the host, so that a card is not waited for.

    Args:
        scored: places of the tokens whose log-prob is taken; compared_K: of those that each token term reads.
        anchor_N: place of a token among those of the group's anchored sequences; of no meaning for others.
        anchored: tokens of these.
    """

    scored: torch.Tensor
    compared_K: tuple[torch.Tensor, ...]
    anchor_N: torch.Tensor
    anchored: int

    @classmethod
    def of(
        cls,
        response_N: torch.Tensor,
        scored: Sequence[int],
        compared_K: Sequence[Sequence[int]],
        anchored: Sequence[int],
    ) -> TokenPlaces:
        """Returns the places from each token's sequence and the sequences of each kind, all of one group."""

        def places(sequences: Sequence[int]) -> torch.Tensor:
            return torch.nonzero(torch.isin(response_N, torch.tensor(sequences, dtype=torch.long))).flatten()

        anchors, anchor_N = places(anchored), torch.zeros_like(response_N)
        anchor_N[anchors] = torch.arange(len(anchors))
        return cls(places(scored), tuple(places(sequences) for sequences in compared_K), anchor_N, len(anchors))

    def to(self, device: torch.device) -> TokenPlaces:
        compared_K = tuple(sent(places, device) for places in self.compared_K)
        return replace(
            self, scored=sent(self.scored, device), compared_K=compared_K, anchor_N=sent(self.anchor_N, device)
        )
