"""The hybrid objective of a micro-batch: per-pair losses, then one reduction with global denominators.

S: sequences of the micro-batch, over all its groups; P: pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.model.packing import PackedBatch, pack_each
from trace_ray.objective.losses import sum_terms, term_loss

Row = Mapping[str, Any]
FILLER = ([0], [0])
"""Prompt and response of the sequence that stands in where a worker has nothing to run: all ranks must run alike."""


@dataclass(frozen=True)
class TopK:
    """Stored reference distributions of K tokens.

    Args:
        ids_Kk: the k likeliest tokens; log_probs_Kk: of these, in nats.
    """

    ids_Kk: torch.Tensor
    log_probs_Kk: torch.Tensor

    def to(self, device: torch.device) -> TopK:
        return TopK(self.ids_Kk.to(device), self.log_probs_Kk.to(device))


@dataclass(frozen=True)
class SequenceGroup:
    """Sequences of like length, run together.

    Args:
        batch: the sequences.
        anchored: those whose KL to the reference is taken, in order.
        reference: these again, for the reference's forward; filler where only another worker has some; None where no
            forward is needed.
        top_k: stored reference distributions of the anchored sequences' tokens, instead of a forward.
    """

    batch: PackedBatch
    anchored: tuple[int, ...]
    reference: PackedBatch | None
    top_k: TopK | None = None

    def to(self, device: torch.device) -> SequenceGroup:
        reference = self.reference.to(device) if self.reference else None
        return SequenceGroup(
            self.batch.to(device), self.anchored, reference, self.top_k.to(device) if self.top_k else None
        )


@dataclass(frozen=True)
class MicroBatch:
    """Pairs flattened to sequences in groups.

    Args:
        groups: what is run.
        place: (pair, response name) -> place among the S.
        rows: the pairs.
        length_S: response tokens of each sequence.
    """

    groups: list[SequenceGroup]
    place: dict[tuple[int, str], int] = field(hash=False)
    rows: Sequence[Row]
    length_S: torch.Tensor

    def tokens(self) -> tuple[int, int]:
        """Returns (tokens, padded tokens) of the policy's forwards, filler left out."""
        real = [g.batch for g in self.groups if not _is_filler(g.batch)]
        return sum(b.tokens for b in real), sum(b.input_ids_BT.numel() for b in real)


def sequence_names(objective: ObjectiveConfig, category: str) -> list[str]:
    """Returns the responses that the category's term runs, in order."""
    term = objective.term(category)
    return list(dict.fromkeys(name for name in (term.prefer, *term.suppress) if name))


def micro_batch(
    rows: Sequence[Row],
    objective: ObjectiveConfig,
    groups: Sequence[Sequence[int]] | None = None,
    anchored: Sequence[bool] | None = None,
    *,
    forward_reference: bool = True,
    pad_id: int = 0,
) -> MicroBatch:
    """Returns the micro-batch of scored rows (tokens, reference log-probs, category, weight).

    Args:
        groups, anchored: as ``packing.plan_step`` made them for these rows; None = one group.
        forward_reference: whether the reference is a forward; else rows hold ``top_k_ids`` and ``top_k_log_probs``.
    """
    flat = [(i, name) for i, row in enumerate(rows) for name in sequence_names(objective, row["category"])]
    groups = [list(range(len(flat)))] if groups is None else groups
    kl = [objective.term(rows[i]["category"]).loss == "kl" for i, _ in flat]
    anchored = [any(kl)] if anchored is None else anchored
    made: list[SequenceGroup] = []
    place: dict[tuple[int, str], int] = {}
    lengths: list[int] = []
    for members, reference in zip(groups, anchored, strict=True):
        first = len(lengths)
        place |= {flat[s]: first + at for at, s in enumerate(members)}
        pairs = [(rows[i]["prompt_ids"], rows[i][f"{name}_ids"]) for i, name in (flat[s] for s in members)]
        lengths += [len(response) for _, response in pairs or [FILLER]]
        anchors = [at for at, s in enumerate(members) if kl[s]]
        again = _collate([pairs[at] for at in anchors], pad_id) if reference and forward_reference else None
        stored = None if forward_reference or not anchors else _top_k([rows[flat[members[at]][0]] for at in anchors])
        made.append(SequenceGroup(_collate(pairs, pad_id), tuple(anchors), again, stored))
    return MicroBatch(made, place, rows, torch.tensor(lengths, dtype=torch.float32))


def _collate(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> PackedBatch:
    return pack_each(sequences or [FILLER], pad_id)


def _is_filler(batch: PackedBatch) -> bool:
    return batch.input_ids_BT.shape == (1, 2)


def _top_k(rows: Sequence[Row]) -> TopK:
    ids = torch.cat([torch.as_tensor(row["top_k_ids"]) for row in rows])
    return TopK(ids.long(), torch.cat([torch.as_tensor(row["top_k_log_probs"]) for row in rows]).float())


@dataclass(frozen=True)
class PairLosses:
    """Per pair: unweighted loss, shape (P,); and detached figures to watch.

    Args:
        raised_P, lowered_P: implicit rewards beta r(y) of the preferred response and of those suppressed (their mean).
    """

    loss_P: torch.Tensor
    category: list[str]
    weight_P: torch.Tensor
    raised_P: torch.Tensor
    lowered_P: torch.Tensor


def pair_losses(batch: MicroBatch, logp_S: torch.Tensor, kl_S: torch.Tensor, objective: ObjectiveConfig) -> PairLosses:
    """Returns each pair's loss from the policy's log-probs.

    Args:
        logp_S: log pi_theta(y|x) of each sequence; kl_S: mean token KL of each anchored sequence.
    """
    categories = [row["category"] for row in batch.rows]
    loss_P, raised_P, lowered_P = (logp_S.new_zeros(len(categories)) for _ in range(3))
    for category in dict.fromkeys(categories):
        pairs = [i for i, name in enumerate(categories) if name == category]
        term = objective.term(category)
        loss, raised, lowered = _category_losses(term, category, pairs, batch, logp_S, kl_S, objective)
        at = torch.tensor(pairs, device=logp_S.device)
        loss_P = loss_P.index_put((at,), loss)
        raised_P, lowered_P = raised_P.index_put((at,), raised), lowered_P.index_put((at,), lowered)
    weight_P = torch.tensor([row["weight"] for row in batch.rows], dtype=torch.float32, device=logp_S.device)
    return PairLosses(loss_P, categories, weight_P, raised_P, lowered_P)


def _category_losses(
    term: TermConfig,
    category: str,
    pairs: list[int],
    batch: MicroBatch,
    logp_S: torch.Tensor,
    kl_S: torch.Tensor,
    objective: ObjectiveConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses and implicit rewards of the pairs of one category."""
    none = logp_S.new_zeros(len(pairs))
    at = {name: [batch.place[i, name] for i in pairs] for name in sequence_names(objective, category)}
    if term.loss == "kl":
        return kl_S[at[term.prefer]], none, none
    length = {name: batch.length_S.to(logp_S.device)[places] for name, places in at.items()}
    if term.loss == "sft":
        return -logp_S[at[term.prefer]] / length[term.prefer].clamp(min=1), none, none
    reference = {name: logp_S.new_tensor([batch.rows[i][f"{name}_ref_logp"] for i in pairs]) for name in at}
    ratio = {name: logp_S[places] - reference[name] for name, places in at.items()}
    reward = {name: objective.beta * value.detach() for name, value in ratio.items()}
    raised = reward[term.prefer] if term.prefer else none
    lowered = sum_terms([reward[name] for name in term.suppress]) / len(term.suppress)
    return term_loss(term, objective, ratio, length), raised, lowered


@dataclass(frozen=True)
class Denominators:
    """What sums are divided by: the same numbers on every rank and in every step of a run.

    Args:
        weighed: weighed pairs a step holds on average, those of weight 0 counted though they cost no forward.
        retain: anchored RETAIN pairs a step holds on average.
        alpha_kl: weight of the anchors' mean.
    """

    weighed: float
    retain: float
    alpha_kl: float


def denominators(
    counts: Mapping[str, int],
    weighed: int,
    step_samples: float,
    objective: ObjectiveConfig,
    shares: Mapping[str, float] | None = None,
) -> Denominators:
    """Returns the denominators.

    Args:
        counts: trained samples by category, those of weight 0 left out.
        weighed: all pairs that were weighed, so that weights which average 1 give a mean.
        step_samples: samples a step, over all workers and micro-batches.
        shares: category -> share of a step; None or empty = as many as there are.
    """
    drawn = {name: shares.get(name, 0.0) if shares else float(count) for name, count in counts.items()}
    per_step = step_samples / max(1e-9, sum(drawn.values()))
    trained = sum(counts.get(name, 0) for name in objective.weighed)
    held = sum(drawn.get(name, 0.0) for name in objective.weighed) * per_step
    retain = 0.0 if "RETAIN" in objective.weighed else drawn.get("RETAIN", 0.0)
    return Denominators(held * weighed / max(1, trained), retain * per_step, objective.alpha_kl)


def reduce_losses(losses: PairLosses, by: Denominators, weighed: Sequence[str]) -> torch.Tensor:
    """Returns this micro-batch's part of the step's loss, a scalar; the parts of all ranks and micro-batches add up.

    L = sum_weighed w l / weighed + alpha_kl sum_anchors l / retain.

    Args:
        weighed: the categories whose pairs carry weights: the conflicts, and RETAIN where it is no anchor.
    Source: paper, eq. for L_hybrid; its sums are means here, so that the step's size changes nothing.
    """
    weigh = torch.tensor([c in weighed for c in losses.category], dtype=torch.bool, device=losses.loss_P.device)
    scale = torch.where(weigh, losses.weight_P / max(by.weighed, 1e-9), by.alpha_kl / max(by.retain, 1e-9))
    return (losses.loss_P * scale).sum()
