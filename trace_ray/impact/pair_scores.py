"""Runs the responses of many pairs through the model: each unique one once, prompts shared where that pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from trace_ray.errors import UserError
from trace_ray.impact.scores import Scored, Scorer, TokenCoefficient
from trace_ray.model.budget import TokenBudget, run_batches
from trace_ray.model.decoder import causal_lm
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import Packed, PackedBatch
from trace_ray.model.sharing import Pays, longest_shared_row, may_share_prompts, sharing_rule

Tokens = tuple[int, ...]
_Response = tuple[float, float | None, torch.Tensor | None]
"""log pi(y|x), and where a score was wanted s(y) and the summed hidden states."""


@dataclass(frozen=True)
class PairRequest:
    """One pair.

    Args:
        prompt_ids, response_ids: tokens; of each response by name.
        coefficients: what each response's s(y) counts in the pair's score; None = log-probs alone are wanted.
        per_token: what the score of a single token counts besides, by response: sums of functions of the tokens' log-probs.
        apart: each response's s(y) is wanted, so that none shares a prompt.
    """

    prompt_ids: Sequence[int]
    response_ids: Mapping[str, Sequence[int]]
    coefficients: Mapping[str, float] | None
    per_token: Mapping[str, Sequence[TokenCoefficient]] = field(default_factory=dict)
    apart: bool = False


@dataclass(frozen=True)
class PairScores:
    """What one pair got.

    Args:
        logp: log pi(y|x) by response.
        s: s(y) by response; empty where the pair shared its prompt or counts tokens apart, or no score was wanted.
        impact: sum of coefficient x s(y); None where no score was wanted.
        norm: of the gradient of sum of coefficient x log pi(y|x), where it was asked for.
        hidden: by response the sum of the hidden states that predict its tokens, float32 of shape (D,), in the host's
            memory; empty where no score was wanted.
    """

    logp: dict[str, float]
    s: dict[str, float]
    impact: float | None
    norm: float | None = None
    hidden: dict[str, torch.Tensor] = field(default_factory=dict, compare=False)

    def with_row(self, told: Mapping[str, tuple[float, torch.Tensor]], score: float, norm: float | None) -> PairScores:
        """Returns the pair with what a further row of its responses got: by name log pi(y|x) and summed hidden states."""
        logp = self.logp | {name: logp for name, (logp, _) in told.items()}
        hidden = self.hidden | {name: sums for name, (_, sums) in told.items()}
        return PairScores(logp, {}, (self.impact or 0.0) + score, norm, hidden)


def score_pairs(
    requests: Sequence[PairRequest],
    scorer: Scorer,
    batch_tokens: int | TokenBudget,
    *,
    share_prompts: bool,
    norms: bool = False,
) -> list[PairScores]:
    """Returns an outcome for each request, in order; no outcome depends on which others there are.

    Args:
        batch_tokens: tokens a forward, padding included; a budget shrinks where a batch does not fit the card.
        share_prompts: score a pair's responses as one row with one prompt where that costs less.
        norms: also each pair's gradient norm; its responses are then always one row.
    Raises: UserError where norms are asked for and the model does not keep the responses of one row apart, or a single row
        does not fit the card.
    """
    budget = TokenBudget.of(batch_tokens)
    pays = sharing_rule(scorer.model, allowed=share_prompts)
    outcomes: dict[int, PairScores] = {}
    run = list(_weighed_rows(requests, scorer, pays, norms=norms))
    rows = [Packed(requests[i].prompt_ids, tuple(requests[i].response_ids[n] for n in names)) for i, names in run]

    def weighed(batch_of: list[int], batch: PackedBatch) -> Scored:
        some = [run[k] for k in batch_of]
        coefficients = torch.tensor([_coefficient(requests[i], name) for i, names in some for name in names])
        per_token = [requests[i].per_token.get(name, ()) for i, names in some for name in names]
        return scorer.score(batch, coefficients, per_token, norms=norms)

    for batch_of, scored in run_batches(rows, scorer.model, budget, weighed, padded=norms):
        some = [run[k] for k in batch_of]
        told = iter(zip(scored.logp_S.tolist(), scored.hidden_SD.cpu(), strict=True))
        norm = [None] * len(some) if scored.norm_B is None else scored.norm_B.tolist()
        for (i, names), score, size in zip(some, scored.score_B.tolist(), norm, strict=True):
            before = outcomes.get(i, PairScores({}, {}, 0.0))
            outcomes[i] = before.with_row({name: next(told) for name in names}, score, size)
    rest = [i for i in range(len(requests)) if i not in outcomes]
    outcomes |= zip(rest, _each_once([requests[i] for i in rest], scorer, budget), strict=True)
    return [outcomes[i] for i in range(len(requests))]


def _weighed_rows(
    requests: Sequence[PairRequest], scorer: Scorer, pays: Pays, *, norms: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the rows that are run with a request's own coefficients: the request, and those of its responses they hold."""
    uses = Counter(key for request in requests for key in _keys(request))
    for i, request in enumerate(requests):
        if request.coefficients is None:
            continue
        alone = all(uses[key] == 1 for key in _keys(request))
        lengths = [len(ids) for ids in request.response_ids.values()]
        if norms or (alone and not request.apart and pays(len(request.prompt_ids), lengths)):
            if norms and len(lengths) > 1:
                _refuse_apart(scorer.model, len(request.prompt_ids) + sum(lengths))
            yield i, tuple(request.response_ids)
        elif request.per_token:
            yield from ((i, (name,)) for name in request.response_ids)


def _refuse_apart(model: Any, row: int) -> None:
    if row > longest_shared_row(causal_lm(model).config) or not may_share_prompts(model):
        remedy = f"it needs a pair's responses in one row, here of {row} tokens, which the model does not keep apart"
        raise UserError("impact.score_norm", "cosine", f"{remedy}: use none or per_token")


def _each_once(requests: Sequence[PairRequest], scorer: Scorer, budget: TokenBudget) -> Iterator[PairScores]:
    """Runs each unique response once, with a backward where any request wants its score."""
    wanted: dict[tuple[Tokens, Tokens], bool] = {}
    for request in requests:
        for key in _keys(request):
            wanted[key] = wanted.get(key, False) or request.coefficients is not None
    found: dict[tuple[Tokens, Tokens], _Response] = {}
    for with_score in (True, False):
        keys = [key for key, score in wanted.items() if score == with_score]
        rows = [Packed(prompt, (response,)) for prompt, response in keys]
        once = partial(_one_response_each, scorer, with_score=with_score)
        for batch_of, pairs in run_batches(rows, scorer.model, budget, once):
            found |= {keys[k]: pair for k, pair in zip(batch_of, pairs, strict=True)}
    for request in requests:
        got = {name: found[key] for name, key in zip(request.response_ids, _keys(request), strict=True)}
        logps = {name: logp for name, (logp, _, _) in got.items()}
        if request.coefficients is None:
            yield PairScores(logps, {}, None)
        else:
            scores = {name: s for name, (_, s, _) in got.items() if s is not None}
            hidden = {name: sums for name, (_, _, sums) in got.items() if sums is not None}
            impact = sum(request.coefficients[name] * s for name, s in scores.items())
            yield PairScores(logps, scores, impact, hidden=hidden)


def _one_response_each(scorer: Scorer, _places: list[int], batch: PackedBatch, *, with_score: bool) -> list[_Response]:
    if with_score:
        scored = scorer.score(batch)
        return list(zip(scored.logp_S.tolist(), scored.score_B.tolist(), scored.hidden_SD.cpu(), strict=True))
    with torch.inference_mode():
        logp_S = response_log_probs(scorer.model, batch, scorer.head)
    return [(logp, None, None) for logp in logp_S.tolist()]


def _keys(request: PairRequest) -> list[tuple[Tokens, Tokens]]:
    return [(tuple(request.prompt_ids), tuple(ids)) for ids in request.response_ids.values()]


def _coefficient(request: PairRequest, name: str) -> float:
    assert request.coefficients is not None
    return request.coefficients[name]
