"""The losses of the hybrid objective: pure, one value an example, no reduction.

B: pairs. A log-ratio is r(y) = log pi_theta(y|x) - log pi_ref(y|x), summed over the response's tokens, in nats; a margin
is r(preferred) - r(dispreferred).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import kl_div, logsigmoid

from trace_ray.config import ObjectiveConfig, TermConfig


def dpo(margin_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Returns -log sigmoid(beta margin), shape (B,). Source: Rafailov 2023, eq. 7; what TRACE writes as l_IPO."""
    return -logsigmoid(beta * margin_B)


def ipo(margin_B: torch.Tensor, tau: float) -> torch.Tensor:
    """Returns (margin - 1 / (2 tau))^2, shape (B,). Source: Azar 2023, eq. 17.

    There a log-ratio is of a whole response, which favours short ones; its authors, and TRL, take means over tokens.
    ``ipo`` is of means, ``ipo_sum`` of sums.
    """
    return (margin_B - 1 / (2 * tau)) ** 2


def rdpo(margin_B: torch.Tensor, beta: float, label_noise: float) -> torch.Tensor:
    """Returns dpo made unbiased under a share ``label_noise`` in [0, 1/2) of flipped labels, shape (B,); dpo at 0.

    Source: Chowdhury 2024, eq. 12.
    """
    straight, flipped = -logsigmoid(beta * margin_B), -logsigmoid(-beta * margin_B)
    return ((1 - label_noise) * straight - label_noise * flipped) / (1 - 2 * label_noise)


def npo(log_ratio_B: torch.Tensor, beta: float, *, scaled: bool) -> torch.Tensor:
    """Returns -log sigmoid(-beta r) for a response to suppress, shape (B,), times 2 / beta if ``scaled``.

    Source: Zhang 2024, eq. 3, which has the factor; TRACE leaves it out.
    """
    loss_B = -logsigmoid(-beta * log_ratio_B)
    return loss_B * (2 / beta) if scaled else loss_B


def token_kl(policy_logits_NV: torch.Tensor, reference_logits_NV: torch.Tensor) -> torch.Tensor:
    """Returns KL(pi_ref || pi_theta) over the full vocabulary at each of N tokens, in nats, shape (N,)."""
    policy, reference = policy_logits_NV.log_softmax(-1), reference_logits_NV.log_softmax(-1)
    return kl_div(policy, reference, reduction="none", log_target=True).sum(-1)


def top_k_kl(policy_logits_NV: torch.Tensor, ids_Nk: torch.Tensor, reference_Nk: torch.Tensor) -> torch.Tensor:
    """Returns KL(pi_ref || pi_theta) where the reference is known at its k likeliest tokens only, shape (N,).

    The rest of the vocabulary counts as one token. That can only lower the KL (data processing), and it is exact where
    the policy keeps the reference's proportions among the rest.

    Args:
        ids_Nk: the tokens; reference_Nk: their log-probs under the reference, in nats.
    """
    policy_Nk = policy_logits_NV.log_softmax(-1).gather(-1, ids_Nk)
    rest_policy, rest_reference = _log_rest(policy_Nk), _log_rest(reference_Nk)
    kept = (reference_Nk.exp() * (reference_Nk - policy_Nk)).sum(-1)
    return kept + rest_reference.exp() * (rest_reference - rest_policy)


def _log_rest(log_probs_Nk: torch.Tensor) -> torch.Tensor:
    """log(1 - sum of the probabilities), no lower than rounding allows."""
    return torch.log((1 - log_probs_Nk.exp().sum(-1)).clamp(min=1e-7))


def term_loss(
    term: TermConfig,
    objective: ObjectiveConfig,
    log_ratio: Mapping[str, torch.Tensor],
    length: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Returns the loss of pairs of one category, for the losses that need response log-ratios alone.

    Args:
        term: the category's row of the objective's table: dpo, ipo, ipo_sum, rdpo or npo.
        log_ratio: response name -> r(y), shape (B,).
        length: response name -> response tokens, shape (B,).
    Returns: shape (B,); npo on two responses is their sum.
    Raises: ValueError for a loss that is not made of log-ratios.
    """
    if term.loss == "ipo" or (objective.length_norm and term.loss != "ipo_sum"):
        log_ratio = {name: value / length[name].clamp(min=1) for name, value in log_ratio.items()}
    if term.loss == "npo":
        return sum_terms([npo(log_ratio[name], objective.beta, scaled=objective.npo_scale) for name in term.suppress])
    margin_B = log_ratio[term.prefer] - log_ratio[term.suppress[0]]
    match term.loss:
        case "dpo":
            return dpo(margin_B, objective.beta)
        case "ipo" | "ipo_sum":
            return ipo(margin_B, objective.tau)
        case "rdpo":
            return rdpo(margin_B, objective.beta, objective.label_noise)
    raise ValueError(f"{term.loss} is not made of log-ratios")


def sum_terms(terms: list[torch.Tensor]) -> torch.Tensor:
    """Returns the element-wise sum of tensors of one shape."""
    return torch.stack(terms).sum(0)
