"""Losses of one response alone: held near the reference, or raised; and the loss of a category that is left out.

Pure. N: response tokens, V: vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trace_ray.objective.losses.entry import Loss, Parameters, Reads, Response

if TYPE_CHECKING:
    from torch import Tensor


def token_kl(policy_logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """Returns KL(pi_ref || pi_theta) over the full vocabulary at each of N tokens, in nats, shape (N,)."""
    from torch.nn.functional import kl_div

    policy, reference = policy_logits_NV.log_softmax(-1), reference_logits_NV.log_softmax(-1)
    return kl_div(policy, reference, reduction="none", log_target=True).sum(-1)


def top_k_kl(policy_logits_NV: Tensor, ids_Nk: Tensor, reference_Nk: Tensor) -> Tensor:
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


def _log_rest(log_probs_Nk: Tensor) -> Tensor:
    """log(1 - sum of the probabilities), no lower than rounding allows."""
    return (1 - log_probs_Nk.exp().sum(-1)).clamp(min=1e-7).log()


def sft(logp_B: Tensor, tokens_B: Tensor) -> Tensor:
    """Returns -log pi(y|x) / tokens, in nats a token, shape (B,); with dpo before it, RPO's and Llama 3's second term."""
    return -logp_B / tokens_B.clamp(min=1)


def _sft_value(preferred: Response | None, _: tuple[Response, ...], p: Parameters) -> Tensor:  # noqa: ARG001
    assert preferred is not None
    return sft(preferred.logp_B, preferred.tokens_B)


def _mean_of_tokens(preferred: Response | None, _: tuple[Response, ...], p: Parameters) -> Tensor:  # noqa: ARG001
    assert preferred is not None
    return preferred.token_mean_B


ENTRIES = (
    Loss(name="skip", doc="leave the category out", source="", value=None, reads=Reads.NOTHING, suppresses=(0, 1, 2)),
    Loss(
        name="kl",
        doc="stay near the reference, token by token: the mean KL from it",
        source="TRACE (arXiv 2511.02623), L_KL",
        value=_mean_of_tokens,
        reads=Reads.LOGITS,
        prefers=True,
        token_value=lambda policy_NV, reference_NV, _target, _p: token_kl(policy_NV, reference_NV),
        top_k_value=lambda policy_NV, ids_Nk, reference_Nk, _p: top_k_kl(policy_NV, ids_Nk, reference_Nk),
        anchor=True,
    ),
    Loss(
        name="sft",
        doc="raise a response: its mean negative log-prob a token",
        source="supervised fine-tuning; RPO (arXiv 2404.19733), second term",
        value=_sft_value,
        reads=Reads.LOG_PROBS,
        prefers=True,
    ),
)
