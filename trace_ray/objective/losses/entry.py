"""What an entry of the table of losses says. No torch here: the configuration reads the table too.

B: pairs of one category. Log-probs and log-ratios are summed over a response's tokens, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Parameters = Mapping[str, Any]
"""A term's parameters by name: all that its loss declares."""


class Reads(StrEnum):
    """What of a response a loss is computed from."""

    NOTHING = "nothing"
    LOG_PROBS = "log-probs"
    LOG_RATIOS = "log-ratios"
    LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A number or a switch of a loss.

    Args:
        default: where a term does not give it; None = the setting of this name in ``objective``.
        holds: whether a value is allowed; remedy: what to give instead.
        switch: it is true or false, no number.
    """

    name: str
    doc: str
    holds: Callable[[Any], bool]
    remedy: str
    default: float | bool | None = None
    switch: bool = False


@dataclass(frozen=True, kw_only=True)
class Response:
    """One response of each of B pairs.

    Args:
        tokens_B: its tokens.
        logp_B: log pi_theta(y|x).
        log_ratio_B: log pi_theta(y|x) - log pi_ref(y|x); NaN where the loss does not read it.
        token_mean_B: mean over its tokens of the loss's own value of a token; NaN where it has none.
    """

    tokens_B: Tensor
    logp_B: Tensor
    log_ratio_B: Tensor
    token_mean_B: Tensor

    def log_ratio(self, *, per_token: bool) -> Tensor:
        """Returns log-ratios of whole responses, or means over their tokens."""
        return self.log_ratio_B / self.tokens_B.clamp(min=1) if per_token else self.log_ratio_B


if TYPE_CHECKING:
    Value = Callable[[Response | None, tuple[Response, ...], Parameters], Tensor]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One loss: all that configuration, scoring, training, plan, report and documents know of it.

    Args:
        name: as a term names it. doc: one line; source: paper and equation.
        value: (the preferred response or None, those suppressed, parameters) -> loss of each pair, shape (B,). Pure.
        prefers: whether it takes a preferred response; suppresses: how many suppressed ones it may take.
        reads: what of a response it is computed from.
        token_value: of a loss that reads logits: (policy_logits_NV, reference_logits_NV, target_N, parameters) -> value of
            each of N response tokens, shape (N,); ``value`` gets their mean.
        top_k_value: the same where of the reference the k likeliest tokens alone are known: (policy_logits_NV, ids_Nk,
            reference_log_probs_Nk, parameters); None = it needs them all.
        token_slope: of a loss that reads logits: d value of a token / d log pi(token) at the reference, from (log pi of
            each token in nats, parameters); None = 0: it has no gradient there. ``value`` is then linear in the tokens'
            mean, or the mean is 0 at the reference.
        parameters: its own.
        anchor: it holds the model near the reference: 0 at the start, and best left there.
    """

    name: str
    doc: str
    source: str
    value: Value | None
    reads: Reads
    prefers: bool = False
    suppresses: tuple[int, ...] = (0,)
    token_value: Callable[[Tensor, Tensor, Tensor, Parameters], Tensor] | None = None
    top_k_value: Callable[[Tensor, Tensor, Tensor, Parameters], Tensor] | None = None
    token_slope: Callable[[Tensor, Parameters], Tensor] | None = None
    parameters: tuple[Parameter, ...] = ()
    anchor: bool = False

    @property
    def needs_reference_log_probs(self) -> bool:
        """Whether a pair's reference log-probs must be stored before it is trained on."""
        return self.reads is Reads.LOG_RATIOS

    @property
    def needs_reference_logits(self) -> bool:
        """Whether the reference's distributions over the vocabulary are compared with."""
        return self.reads is Reads.LOGITS

    @property
    def scored_by_slopes(self) -> bool:
        """Whether its gradient is a combination of whole responses' gradients, away from the reference too."""
        return self.reads in (Reads.LOG_PROBS, Reads.LOG_RATIOS)


def log_sigmoid(x: Tensor) -> Tensor:
    """Returns log sigmoid(x), without overflow."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)


def relation(of: Callable[[Tensor, Parameters], Tensor], *, per_token: bool | None = None) -> Value:
    """Returns the ``value`` of a loss of the margin r(preferred) - r(suppressed) alone.

    Args:
        per_token: of token means or sums; None = as the parameter length_norm says.
    """

    def value(preferred: Response | None, suppressed: tuple[Response, ...], p: Parameters) -> Tensor:
        assert preferred is not None
        mean = p["length_norm"] if per_token is None else per_token
        return of(preferred.log_ratio(per_token=mean) - suppressed[0].log_ratio(per_token=mean), p)

    return value


BETA = Parameter(
    name="beta", doc="scale of the log-ratios", holds=lambda value: value > 0, remedy="give a positive scale"
)
TAU = Parameter(
    name="tau",
    doc="the target margin is 1 / (2 tau)",
    holds=lambda value: value > 0,
    remedy="give a positive tau",
)
LENGTH_NORM = Parameter(
    name="length_norm",
    doc="means over a response's tokens instead of sums",
    holds=lambda value: isinstance(value, bool),
    remedy="give true or false",
    switch=True,
)
WEIGHT = Parameter(
    name="weight",
    doc="what the term counts in its category's sum",
    holds=lambda value: value >= 0,
    remedy="give 0 or more",
    default=1.0,
)
"""Every term has one; no loss declares it."""
