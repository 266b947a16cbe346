"""Each pair's loss: the sum of its category's terms.

S: sequences of the micro-batch, over all its groups; K: the objective's token terms; P: pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.model.transfer import placed, sent
from trace_ray.objective.batch import MicroBatch
from trace_ray.objective.losses import Response, sum_terms


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
                places = {
                    name: placed([batch.place[i, name] for i in pairs], torch.long, logp_S.device) for name in seen
                }
                seen = {name: replace(response, token_mean_B=mean_S[places[name]]) for name, response in seen.items()}
            losses.append(term_loss(term, objective, seen))
        loss = sum_terms(losses)
        raised, lowered = _rewards(category, objective, responses, loss)
        at = placed(pairs, torch.long, logp_S.device)
        loss_P = loss_P.index_put((at,), loss)
        raised_P, lowered_P = raised_P.index_put((at,), raised), lowered_P.index_put((at,), lowered)
    weight_P = placed([row["weight"] for row in batch.rows], torch.float32, logp_S.device)
    return PairLosses(loss_P, categories, weight_P, raised_P, lowered_P)


def _responses(
    category: str, pairs: list[int], batch: MicroBatch, logp_S: torch.Tensor, objective: ObjectiveConfig
) -> dict[str, Response]:
    """What the losses of one category are computed from, by response name, but for values of tokens."""
    found = {}
    needed = objective.needs_reference_log_probs(category)
    for name in objective.sequences(category):
        at = placed([batch.place[i, name] for i in pairs], torch.long, logp_S.device)
        stored = placed([_stored(batch.rows[i], name, needed=needed) for i in pairs], logp_S.dtype, logp_S.device)
        tokens_B = sent(batch.length_S, logp_S.device)[at]
        ratio_B = logp_S[at] - stored
        found[name] = Response(
            tokens_B=tokens_B, logp_B=logp_S[at], log_ratio_B=ratio_B, token_mean_B=torch.full_like(ratio_B, torch.nan)
        )
    return found


def _stored(row: Mapping[str, Any], name: str, *, needed: bool) -> float:
    """A response's log-prob under the reference; NaN where no loss needs it and none was stored."""
    value = row[f"{name}_ref_logp"] if needed else row.get(f"{name}_ref_logp", torch.nan)
    return torch.nan if value is None and not needed else float(value)


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
    """Implicit rewards by the term that is watched; 0 where there is none, or what it reads of the reference is not stored."""
    none_B = torch.zeros_like(like_B, requires_grad=False)
    term = objective.watched(category)
    if term is None:
        return none_B, none_B
    reward = {name: objective.beta_of(term) * responses[name].log_ratio_B.detach() for name in term.responses}
    if not term.entry.needs_reference_log_probs:
        reward = {name: value_B.nan_to_num(0.0) for name, value_B in reward.items()}
    lowered = sum_terms([reward[name] for name in term.suppress]) / len(term.suppress) if term.suppress else none_B
    return reward[term.prefer] if term.prefer else none_B, lowered
