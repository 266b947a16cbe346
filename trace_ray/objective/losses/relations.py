"""Losses of one response preferred over another: pure, one value a pair, no reduction.

B: pairs. A margin is r(preferred) - r(suppressed), r(y) = log pi_theta(y|x) - log pi_ref(y|x), summed over the tokens, in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from trace_ray.objective.losses.entry import (
    BETA,
    LENGTH_NORM,
    TAU,
    Loss,
    Parameter,
    Parameters,
    Reads,
    Response,
    log_sigmoid,
    relation,
)

if TYPE_CHECKING:
    from torch import Tensor

    from trace_ray.objective.losses.entry import Value


def dpo(margin_B: Tensor, beta: float) -> Tensor:
    """Returns -log sigmoid(beta margin), shape (B,). Source: Rafailov 2023, eq. 7; what TRACE writes as l_IPO."""
    return -log_sigmoid(beta * margin_B)


def ipo(margin_B: Tensor, tau: float) -> Tensor:
    """Returns (margin - 1 / (2 tau))^2, shape (B,). Source: Azar 2023, eq. 17.

    There a log-ratio is of a whole response, which favours short ones; its authors, and TRL, take means over tokens.
    ``ipo`` is of means, ``ipo_sum`` of sums.
    """
    return (margin_B - 1 / (2 * tau)) ** 2


def rdpo(margin_B: Tensor, beta: float, label_noise: float) -> Tensor:
    """Returns dpo made unbiased under a share ``label_noise`` in [0, 1/2) of flipped labels, shape (B,); dpo at 0.

    Source: Chowdhury 2024, eq. 12.
    """
    straight, flipped = -log_sigmoid(beta * margin_B), -log_sigmoid(-beta * margin_B)
    return ((1 - label_noise) * straight - label_noise * flipped) / (1 - 2 * label_noise)


def dpop(preferred_B: Tensor, suppressed_B: Tensor, beta: float, floor: float) -> Tensor:
    """Returns -log sigmoid(beta (r_p - r_s - lambda max(0, -r_p))), shape (B,): the preferred side sinks at a price.

    At the reference, its kink, the gradient is taken to be dpo's.

    Args:
        preferred_B, suppressed_B: log-ratios; floor: lambda.
    Source: Pal 2024 (arXiv 2402.13228).
    """
    return -log_sigmoid(beta * (preferred_B - suppressed_B - floor * (-preferred_B).relu()))


def cal_dpo(preferred_B: Tensor, suppressed_B: Tensor, beta: float) -> Tensor:
    """Returns -log sigmoid(r_p - r_s) + (r_p - 1/(2 beta))^2 + (r_s + 1/(2 beta))^2, shape (B,): both levels are pinned.

    Source: Xiao 2024 (arXiv 2412.14516).
    """
    level = 1 / (2 * beta)
    return -log_sigmoid(preferred_B - suppressed_B) + (preferred_B - level) ** 2 + (suppressed_B + level) ** 2


def levels(of: Callable[[Tensor, Tensor, Parameters], Tensor]) -> Value:
    """Returns a loss' value from both log-ratios, preferred and suppressed, where their difference does not say enough."""

    def value(preferred: Response | None, suppressed: tuple[Response, ...], p: Parameters) -> Tensor:
        assert preferred is not None
        raised_B, lowered_B = (side.log_ratio(per_token=p["length_norm"]) for side in (preferred, suppressed[0]))
        return of(raised_B, lowered_B, p)

    return value


LAMBDA = Parameter(
    name="lambda",
    doc="what a nat of the preferred side below the reference costs, in nats of margin",
    holds=lambda value: value >= 0,
    remedy="give 0 or more",
    default=5.0,
)
LABEL_NOISE = Parameter(
    name="label_noise",
    doc="share of labels that are wrong",
    holds=lambda value: 0 <= value < 0.5,
    remedy="give a rate in [0, 0.5)",
)

_of_a_pair = partial(Loss, reads=Reads.LOG_RATIOS, prefers=True, suppresses=(1,))

ENTRIES = (
    _of_a_pair(
        name="dpo",
        doc="raise one response's log-ratio over another's",
        source="Rafailov 2023, eq. 7",
        value=relation(lambda margin_B, p: dpo(margin_B, p["beta"])),
        parameters=(BETA, LENGTH_NORM),
    ),
    _of_a_pair(
        name="ipo",
        doc="bring the margin of token means to 1 / (2 tau) nats a token",
        source="Azar 2023, eq. 17",
        value=relation(lambda margin_B, p: ipo(margin_B, p["tau"]), per_token=True),
        parameters=(TAU,),
    ),
    _of_a_pair(
        name="ipo_sum",
        doc="ipo of whole responses: a margin of 1 / (2 tau) nats",
        source="Azar 2023, eq. 17",
        value=relation(lambda margin_B, p: ipo(margin_B, p["tau"]), per_token=False),
        parameters=(TAU,),
    ),
    _of_a_pair(
        name="rdpo",
        doc="dpo that allows for wrong labels",
        source="Chowdhury 2024, eq. 12",
        value=relation(lambda margin_B, p: rdpo(margin_B, p["beta"], p["label_noise"])),
        parameters=(BETA, LENGTH_NORM, LABEL_NOISE),
    ),
    _of_a_pair(
        name="dpop",
        doc="dpo in which the preferred side sinks below the reference at a price only",
        source="Pal 2024 (arXiv 2402.13228)",
        value=levels(lambda raised_B, lowered_B, p: dpop(raised_B, lowered_B, p["beta"], p["lambda"])),
        parameters=(BETA, LENGTH_NORM, LAMBDA),
    ),
    _of_a_pair(
        name="cal_dpo",
        doc="a margin, and the levels of both sides pinned to plus and minus 1 / (2 beta)",
        source="Xiao 2024 (arXiv 2412.14516)",
        value=levels(lambda raised_B, lowered_B, p: cal_dpo(raised_B, lowered_B, p["beta"])),
        parameters=(BETA, LENGTH_NORM),
    ),
)
