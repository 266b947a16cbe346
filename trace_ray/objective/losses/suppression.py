"""Losses that lower a response: pure, one value a pair or a token, no reduction.

B: pairs, N: response tokens, V: vocabulary. Without a bound npo and its kin go on after the old answer is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trace_ray.objective.losses.entry import (
    BETA,
    LENGTH_NORM,
    Loss,
    Parameter,
    Parameters,
    Reads,
    Response,
    log_sigmoid,
)

if TYPE_CHECKING:
    from torch import Tensor


def npo(log_ratio_B: Tensor, beta: float, *, scaled: bool) -> Tensor:
    """Returns -log sigmoid(-beta r) for a response to suppress, shape (B,), times 2 / beta if ``scaled``.

    Source: Zhang 2024, eq. 3, which has the factor; TRACE leaves it out.
    """
    loss_B = -log_sigmoid(-beta * log_ratio_B)
    return loss_B * (2 / beta) if scaled else loss_B


def saturating_log_ratio(policy_NV: Tensor, reference_NV: Tensor, target_N: Tensor, margin: float) -> Tensor:
    """Returns max(log pi_theta(t) - log pi_ref(t), -margin) of each token, shape (N,): one far down is left where it is.

    Args:
        policy_NV, reference_NV: logits; target_N: the tokens; margin: nats.
    Source: ours, after the saturation of WGA and SatImp.
    """
    log_ratio_N = token_log_probs(policy_NV, target_N) - token_log_probs(reference_NV, target_N)
    return log_ratio_N.clamp(min=-margin)


def simnpo(mean_logp_B: Tensor, beta: float, gamma: float) -> Tensor:
    """Returns -(2 / beta) log sigmoid(-beta m - gamma), m the mean log-prob of a token, shape (B,): no reference.

    Source: Fan 2024 (arXiv 2410.07163).
    """
    return -(2 / beta) * log_sigmoid(-beta * mean_logp_B - gamma)


def undial(policy_NV: Tensor, reference_NV: Tensor, target_N: Tensor, gamma: float) -> Tensor:
    """Returns the cross-entropy to softmax(reference logits, the token's own lowered by gamma), in nats, shape (N,).

    A fixed target: it converges, and with it the response.

    Source: Dong 2024 (arXiv 2402.10052).
    """
    lowered_NV = reference_NV.scatter_add(1, target_N[:, None], reference_NV.new_full((len(target_N), 1), -gamma))
    return -(lowered_NV.softmax(-1) * policy_NV.log_softmax(-1)).sum(-1)


def undial_slope(logp_N: Tensor, gamma: float) -> Tensor:
    """Returns the factor of grad log pi(token) in undial's gradient at the reference, shape (N,).

    With p = pi(token), a = 1 - exp(-gamma): softmax(z) minus the target is a p / (1 - a p) (onehot - softmax(z)).
    """
    import math

    share_N = (1 - math.exp(-gamma)) * logp_N.exp()
    return share_N / (1 - share_N)


def token_log_probs(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Returns log pi(token), shape (N,)."""
    return logits_NV.log_softmax(-1).gather(1, target_N[:, None])[:, 0]


def _saturating_value(_: Response | None, suppressed: tuple[Response, ...], p: Parameters) -> Tensor:
    ratios = [r.token_mean_B if p["length_norm"] else r.token_mean_B * r.tokens_B for r in suppressed]
    return sum_terms([npo(ratio_B, p["beta"], scaled=p["npo_scale"]) for ratio_B in ratios])


def _simnpo_value(_: Response | None, suppressed: tuple[Response, ...], p: Parameters) -> Tensor:
    means = [response.logp_B / response.tokens_B.clamp(min=1) for response in suppressed]
    return sum_terms([simnpo(mean_B, p["beta"], p["gamma"]) for mean_B in means])


def _npo_value(_: Response | None, suppressed: tuple[Response, ...], p: Parameters) -> Tensor:
    ratios = [response.log_ratio(per_token=p["length_norm"]) for response in suppressed]
    return sum_terms([npo(ratio_B, p["beta"], scaled=p["npo_scale"]) for ratio_B in ratios])


def sum_terms(terms: list[Tensor]) -> Tensor:
    """Returns the element-wise sum of tensors of one shape."""
    import torch

    return torch.stack(terms).sum(0)


NPO_SCALE = Parameter(
    name="npo_scale",
    doc="times 2 / beta, as its paper has it",
    holds=lambda value: isinstance(value, bool),
    remedy="give true or false",
    switch=True,
)

MARGIN = Parameter(
    name="margin",
    doc="nats below the reference from which a token is left alone",
    holds=lambda value: value > 0,
    remedy="give a positive number of nats",
    default=2.0,
)
OWN_BETA = Parameter(
    name="beta",
    doc="scale of the mean log-prob",
    holds=lambda value: value > 0,
    remedy="give a positive scale",
    default=2.5,
)
GAMMA = Parameter(
    name="gamma",
    doc="the margin that the mean log-prob is to fall below",
    holds=lambda value: value >= 0,
    remedy="give 0 or more",
    default=0.0,
)
LOWERED = Parameter(
    name="gamma",
    doc="what the token's logit is lowered by",
    holds=lambda value: value > 0,
    remedy="give a positive number",
    default=10.0,
)

ENTRIES = (
    Loss(
        name="npo",
        doc="lower one response, or each of two",
        source="Zhang 2024, eq. 3, without its factor 2 / beta",
        value=_npo_value,
        reads=Reads.LOG_RATIOS,
        suppresses=(1, 2),
        parameters=(BETA, LENGTH_NORM, NPO_SCALE),
    ),
    Loss(
        name="npo_saturating",
        doc="npo over the tokens that are not yet `margin` nats below the reference",
        source="ours, after WGA and SatImp",
        value=_saturating_value,
        reads=Reads.LOGITS,
        suppresses=(1, 2),
        token_value=lambda policy_NV, reference_NV, target_N, p: saturating_log_ratio(
            policy_NV, reference_NV, target_N, p["margin"]
        ),
        token_slope=lambda logp_N, _p: logp_N.new_ones(len(logp_N)),
        parameters=(BETA, LENGTH_NORM, NPO_SCALE, MARGIN),
    ),
    Loss(
        name="simnpo",
        doc="npo of the mean log-prob of a token, without a reference",
        source="Fan 2024 (arXiv 2410.07163)",
        value=_simnpo_value,
        reads=Reads.LOG_PROBS,
        suppresses=(1, 2),
        parameters=(OWN_BETA, GAMMA),
    ),
    Loss(
        name="undial",
        doc="distil to the reference with each token's own logit lowered by `gamma`: a fixed target",
        source="Dong 2024 (arXiv 2402.10052)",
        value=lambda _, suppressed, _p: sum_terms([response.token_mean_B for response in suppressed]),
        reads=Reads.LOGITS,
        suppresses=(1, 2),
        token_value=lambda policy_NV, reference_NV, target_N, p: undial(policy_NV, reference_NV, target_N, p["gamma"]),
        token_slope=lambda logp_N, p: undial_slope(logp_N, p["gamma"]),
        parameters=(LOWERED,),
    ),
)
