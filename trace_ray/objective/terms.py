"""The hybrid objective of a micro-batch: per-pair losses, then one reduction with global denominators.

S: sequences of the micro-batch, over all its groups; P: pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.model.packing import Packed, PackedBatch, pack
from trace_ray.objective.losses import Parameters, Response, sum_terms

Row = Mapping[str, Any]
FILLER = Packed([0], ([0],))
"""The row that stands in where a worker has nothing to run: all ranks must run alike."""


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
class TokenTerm:
    """A loss that compares with the reference token by token, and what it reads of one group.

    Args:
        term: of the configuration; parameters: all of its loss's.
        sequences: places in the group.
    """

    term: TermConfig
    parameters: Parameters
    sequences: tuple[int, ...]


@dataclass(frozen=True)
class SequenceGroup:
    """Rows of like length, run together.

    Args:
        batch: their sequences.
        scored: places of those whose log-prob is taken.
        token_terms: one for each of the objective's, in its order, in every group.
        anchored: the sequences that some token term reads, in order.
        reference: these again, for the reference's forward; filler where only another worker has some; None where no
            forward is needed.
        top_k: stored reference distributions of the anchored sequences' tokens, instead of a forward.
    """

    batch: PackedBatch
    scored: tuple[int, ...]
    token_terms: tuple[TokenTerm, ...]
    anchored: tuple[int, ...]
    reference: PackedBatch | None
    top_k: TopK | None = None

    def to(self, device: torch.device) -> SequenceGroup:
        reference = self.reference.to(device) if self.reference else None
        top_k = self.top_k.to(device) if self.top_k else None
        return replace(self, batch=self.batch.to(device), reference=reference, top_k=top_k)


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

    def tokens(self) -> tuple[int, int, int]:
        """Returns (tokens of the sequences, tokens run, tokens run with padding) of the policy's forwards.

        A shared prompt counts once for each response among the first, and is run once. Filler is left out.
        """
        real = [g.batch for g in self.groups if not _is_filler(g.batch)]
        alone = sum(b.tokens_alone for b in real)
        return alone, sum(b.tokens for b in real), sum(b.input_ids_BT.numel() for b in real)


def micro_batch(
    rows: Sequence[Row],
    objective: ObjectiveConfig,
    groups: Sequence[Sequence[int]] | None = None,
    anchored: Sequence[bool] | None = None,
    *,
    shared: Sequence[bool] | None = None,
    forward_reference: bool = True,
    pad_id: int = 0,
) -> MicroBatch:
    """Returns the micro-batch of scored rows (tokens, reference log-probs, category, weight).

    Args:
        groups, anchored: as ``layout.plan_step`` made them for these rows; None = one group.
        shared: which pairs' responses share their prompt, none of them anchored; None = none.
        forward_reference: whether the reference is a forward; else rows hold ``top_k_ids`` and ``top_k_log_probs``.
    """
    flat: list[tuple[int, tuple[str, ...]]] = []
    for i, row in enumerate(rows):
        names = objective.sequences(row["category"])
        flat += [(i, names)] if shared is not None and shared[i] else [(i, (name,)) for name in names]
    groups = [list(range(len(flat)))] if groups is None else groups
    compared = [objective.compared(row["category"]) for row in rows]
    anchored = [any(compared)] if anchored is None else anchored
    made: list[SequenceGroup] = []
    place: dict[tuple[int, str], int] = {}
    lengths: list[torch.Tensor] = []
    sequences = 0
    for members, reference in zip(groups, anchored, strict=True):
        keys = [(i, name) for i, names in (flat[s] for s in members) for name in names]
        place |= {key: sequences + at for at, key in enumerate(keys)}
        packed = [_packed(rows[i], names) for i, names in (flat[s] for s in members)]
        batch = pack(packed or [FILLER], pad_id)
        sequences += batch.responses
        lengths.append(batch.length_S)
        anchors = tuple(at for at, (i, name) in enumerate(keys) if name in compared[i])
        again = [_packed(rows[i], (name,)) for i, name in (keys[at] for at in anchors)]
        run_again = pack(again or [FILLER], pad_id) if reference and forward_reference else None
        stored = None if forward_reference or not anchors else _top_k([rows[keys[at][0]] for at in anchors])
        kinds = [(rows[i]["category"], name) for i, name in keys]
        wanted = tuple(at for at, (category, name) in enumerate(kinds) if name in objective.scored(category))
        made.append(SequenceGroup(batch, wanted, _token_terms(kinds, objective), anchors, run_again, stored))
    return MicroBatch(made, place, rows, torch.cat(lengths))


def _token_terms(kinds: Sequence[tuple[str, str]], objective: ObjectiveConfig) -> tuple[TokenTerm, ...]:
    """What each of the objective's token terms reads of a group, whose sequences are of (category, response name)."""
    return tuple(
        TokenTerm(
            term,
            objective.parameters(term),
            tuple(at for at, (category, name) in enumerate(kinds) if category == of and name in term.responses),
        )
        for of, term in objective.token_terms()
    )


def _packed(row: Row, names: Sequence[str]) -> Packed:
    return Packed(row["prompt_ids"], tuple(row[f"{name}_ids"] for name in names))


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


def pair_losses(
    batch: MicroBatch, logp_S: torch.Tensor, token_KS: torch.Tensor, objective: ObjectiveConfig
) -> PairLosses:
    """Returns each pair's loss from the policy's log-probs.

    Args:
        logp_S: log pi_theta(y|x) of each sequence; token_KS: for each of the objective's token terms the mean of its values
            over each sequence's tokens.
    """
    categories = [row["category"] for row in batch.rows]
    loss_P, raised_P, lowered_P = (logp_S.new_zeros(len(categories)) for _ in range(3))
    for category in dict.fromkeys(categories):
        pairs = [i for i, name in enumerate(categories) if name == category]
        responses = _responses(category, pairs, batch, logp_S, objective)
        losses = []
        for term in objective.terms(category):
            seen = {name: responses[name] for name in term.responses}
            if term.entry.needs_reference_logits:
                mean_S = token_KS[objective.token_terms().index((category, term))]
                places = {name: [batch.place[i, name] for i in pairs] for name in seen}
                seen = {name: replace(one, token_mean_B=mean_S[places[name]]) for name, one in seen.items()}
            losses.append(term_loss(term, objective, seen))
        loss = sum_terms(losses)
        raised, lowered = _rewards(category, objective, responses, loss)
        at = torch.tensor(pairs, device=logp_S.device)
        loss_P = loss_P.index_put((at,), loss)
        raised_P, lowered_P = raised_P.index_put((at,), raised), lowered_P.index_put((at,), lowered)
    weight_P = torch.tensor([row["weight"] for row in batch.rows], dtype=torch.float32, device=logp_S.device)
    return PairLosses(loss_P, categories, weight_P, raised_P, lowered_P)


def _responses(
    category: str, pairs: list[int], batch: MicroBatch, logp_S: torch.Tensor, objective: ObjectiveConfig
) -> dict[str, Response]:
    """What the losses of one category are computed from, by response name, but for values of tokens."""
    found = {}
    known = objective.needs_reference_log_probs(category)
    for name in objective.sequences(category):
        at = [batch.place[i, name] for i in pairs]
        stored = logp_S.new_tensor([batch.rows[i][f"{name}_ref_logp"] if known else torch.nan for i in pairs])
        tokens_B = batch.length_S.to(logp_S.device)[at]
        ratio_B = logp_S[at] - stored
        found[name] = Response(
            tokens_B=tokens_B, logp_B=logp_S[at], log_ratio_B=ratio_B, token_mean_B=torch.full_like(ratio_B, torch.nan)
        )
    return found


def term_loss(term: TermConfig, objective: ObjectiveConfig, responses: Mapping[str, Response]) -> torch.Tensor:
    """Returns one term's loss of each of B pairs times its weight, shape (B,); ``responses``: by name."""
    parameters = objective.parameters(term)
    suppressed = tuple(responses[name] for name in term.suppress)
    value = term.entry.value
    assert value is not None, "a skipped category has no terms"
    loss_B = value(responses[term.prefer] if term.prefer else None, suppressed, parameters)
    return loss_B if parameters["weight"] == 1 else parameters["weight"] * loss_B


def _rewards(
    category: str, objective: ObjectiveConfig, responses: Mapping[str, Response], like_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Implicit rewards by the first term that reads log-ratios; 0 where none does."""
    none_B = torch.zeros_like(like_B, requires_grad=False)
    for term in objective.terms(category):
        if term.entry.needs_reference_log_probs:
            beta = objective.parameters(term).get("beta", objective.beta)
            reward = {name: beta * responses[name].log_ratio_B.detach() for name in term.responses}
            lowered = sum_terms([reward[name] for name in term.suppress]) / len(term.suppress)
            return reward[term.prefer] if term.prefer else none_B, lowered
    return none_B, none_B


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
