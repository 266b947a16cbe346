"""The hybrid objective of a micro-batch: per-pair losses, then one reduction with global denominators.

B: sequences of the flattened micro-batch; P: pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.log_probs import SequenceBatch, collate
from trace_ray.losses import sum_terms, term_loss
from trace_ray.pairs import CONFLICTS

Row = Mapping[str, Any]
FILLER = ([0], [0])
"""Prompt and response of the sequence that stands in where a worker has nothing to run: all ranks must run alike."""


@dataclass(frozen=True)
class MicroBatch:
    """Pairs flattened to sequences for one policy forward, and the sequences whose KL is taken for one reference forward.

    Args:
        policy: all sequences, B of them.
        reference: the kl sequences again, in order.
        reference_sequence: their places among the B; empty = ``reference`` is filler.
        place: (pair, response name) -> place among the B.
        rows: the pairs.
    """

    policy: SequenceBatch
    reference: SequenceBatch
    reference_sequence: list[int]
    place: dict[tuple[int, str], int] = field(hash=False)
    rows: Sequence[Row] = ()


def micro_batch(rows: Sequence[Row], objective: ObjectiveConfig, pad_id: int = 0) -> MicroBatch:
    """Returns the micro-batch of scored rows (tokens, reference log-probs, category, weight)."""
    sequences: list[tuple[Sequence[int], Sequence[int]]] = []
    place: dict[tuple[int, str], int] = {}
    anchored: list[int] = []
    for i, row in enumerate(rows):
        term = getattr(objective, row["category"])
        for name in _responses(term):
            place[i, name] = len(sequences)
            if term.loss == "kl":
                anchored.append(len(sequences))
            sequences.append((row["prompt_ids"], row[f"{name}_ids"]))
    reference = [sequences[i] for i in anchored]
    return MicroBatch(_collate(sequences, pad_id), _collate(reference, pad_id), anchored, place, rows)


def _collate(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> SequenceBatch:
    prompts, responses = zip(*(sequences or [FILLER]), strict=True)
    return collate(prompts, responses, pad_id)


@dataclass(frozen=True)
class PairLosses:
    """Per pair: unweighted loss, shape (P,); and detached figures to watch."""

    loss_P: torch.Tensor
    category: list[str]
    weight_P: torch.Tensor
    reward_P: torch.Tensor


def pair_losses(batch: MicroBatch, logp_B: torch.Tensor, kl_B: torch.Tensor, objective: ObjectiveConfig) -> PairLosses:
    """Returns each pair's loss from the policy's log-probs.

    Args:
        logp_B: log pi_theta(y|x) of each sequence.
        kl_B: mean token KL of each reference sequence.
    """
    categories = [row["category"] for row in batch.rows]
    loss_P, reward_P = logp_B.new_zeros(len(categories)), logp_B.new_zeros(len(categories))
    for category in dict.fromkeys(categories):
        pairs = [i for i, name in enumerate(categories) if name == category]
        term: TermConfig = getattr(objective, category)
        loss, reward = _category_losses(term, pairs, batch, logp_B, kl_B, objective)
        at = torch.tensor(pairs, device=logp_B.device)
        loss_P = loss_P.index_put((at,), loss)
        reward_P = reward_P.index_put((at,), reward)
    weight_P = torch.tensor([row["weight"] for row in batch.rows], dtype=torch.float32, device=logp_B.device)
    return PairLosses(loss_P, categories, weight_P, reward_P)


def _category_losses(
    term: TermConfig,
    pairs: list[int],
    batch: MicroBatch,
    logp_B: torch.Tensor,
    kl_B: torch.Tensor,
    objective: ObjectiveConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and implicit rewards' margins (preferred minus suppressed, times beta) of the pairs of one category."""
    none = logp_B.new_zeros(len(pairs))
    at = {name: [batch.place[i, name] for i in pairs] for name in _responses(term)}
    if term.loss == "kl":
        order = {place: i for i, place in enumerate(batch.reference_sequence)}
        return kl_B[[order[place] for place in at[term.prefer]]], none
    length = {name: batch.policy.lengths_B()[places] for name, places in at.items()}
    if term.loss == "sft":
        return -logp_B[at[term.prefer]] / length[term.prefer].clamp(min=1), none
    reference = {name: logp_B.new_tensor([batch.rows[i][f"{name}_ref_logp"] for i in pairs]) for name in at}
    ratio = {name: logp_B[places] - reference[name] for name, places in at.items()}
    signed = [ratio[name] if name == term.prefer else -ratio[name] for name in ratio]
    return term_loss(term, objective, ratio, length), objective.beta * sum_terms(signed).detach()


def _responses(term: TermConfig) -> list[str]:
    return list(dict.fromkeys(name for name in (term.prefer, *term.suppress) if name))


@dataclass(frozen=True)
class Denominators:
    """What sums are divided by: the same numbers on every rank and in every step of a run.

    Args:
        conflicts: conflicts a step holds on average, those of weight 0 counted though they cost no forward.
        retain: RETAIN pairs a step holds on average.
        alpha_kl: weight of the RETAIN mean.
    """

    conflicts: float
    retain: float
    alpha_kl: float


def denominators(counts: Mapping[str, int], conflicts: int, step_samples: int, alpha_kl: float) -> Denominators:
    """Returns the denominators.

    Args:
        counts: trained samples by category, those of weight 0 left out.
        conflicts: all conflicts that were weighed, so that weights which average 1 give a mean.
        step_samples: samples a step, over all workers and micro-batches.
    """
    per_step = step_samples / max(1, sum(counts.values()))
    return Denominators(conflicts * per_step, counts.get("RETAIN", 0) * per_step, alpha_kl)


def reduce_losses(losses: PairLosses, by: Denominators) -> torch.Tensor:
    """Returns this micro-batch's part of the step's loss, a scalar; the parts of all ranks and micro-batches add up.

    L = sum_conflicts w l / conflicts + alpha_kl sum_RETAIN l / retain.
    Source: paper, eq. for L_hybrid; its sums are means here, so that the step's size changes nothing.
    """
    conflict = torch.tensor([c in CONFLICTS for c in losses.category], device=losses.loss_P.device)
    scale = torch.where(conflict, losses.weight_P / max(by.conflicts, 1e-9), by.alpha_kl / max(by.retain, 1e-9))
    return (losses.loss_P * scale).sum()
