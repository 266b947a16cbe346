"""From pairs' losses to a step's: one reduction with global denominators, so that the parts of all ranks add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from trace_ray.config import ObjectiveConfig
from trace_ray.model.transfer import placed
from trace_ray.objective.terms import PairLosses


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
    weigh = placed([c in weighed for c in losses.category], torch.bool, losses.loss_P.device)
    anchors = torch.full_like(losses.weight_P, by.alpha_kl / max(by.retain, 1e-9))
    scale = torch.where(weigh, losses.weight_P / max(by.weighed, 1e-9), anchors)
    return (losses.loss_P * scale).sum()
