"""Scores one shard of triaged rows: a pure function of rows, model, direction and settings. No Ray here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer
from trace_ray.config import ImpactConfig, ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.impact.ches import pair_ches
from trace_ray.impact.pair_scores import PairRequest, PairScores, score_pairs
from trace_ray.impact.rows import tokenized_rows
from trace_ray.impact.scores import Direction, Scorer
from trace_ray.model.budget import TokenBudget
from trace_ray.model.known import refuse_unknown_tokens
from trace_ray.objective.slopes import pair_slopes, token_slopes
from trace_ray.pairs import CONFLICTS, SCORED_SCHEMA, TRAINED, TRIAGED_SCHEMA, Split, fitted, hash_fraction

Row = dict[str, Any]
SHARD_SCHEMA = SCORED_SCHEMA.remove(SCORED_SCHEMA.get_field_index("weight"))


@dataclass(frozen=True)
class Selection:
    """Which triaged rows are trained on.

    Args:
        objective: the categories' terms.
        retain_share: share of RETAIN pairs taken, by hash.
        seed: of that hash.
    """

    objective: ObjectiveConfig
    retain_share: float
    seed: int

    def needs(self, category: str) -> str:
        """Returns what a pair of the category needs: its ``score``, ``log_probs`` of the reference, or ``tokens`` alone."""
        if category in self.objective.weighed:
            return "score"
        return "log_probs" if self.objective.needs_reference_log_probs(category) else "tokens"

    def rows(self, triaged: pa.Table) -> list[Row]:
        """Returns the rows to train on, in order; those without a response that their term reads are left out."""
        rows = fitted(triaged, TRIAGED_SCHEMA).to_pylist()
        drawn = hash_fraction([row["pair_id"] for row in rows], self.seed, "retain")
        return [row for row, number in zip(rows, drawn, strict=True) if self._takes(row, number)]

    def _takes(self, row: Row, number: float) -> bool:
        if row["split"] != Split.TRAIN or row["category"] not in TRAINED:
            return False
        names = self.objective.responses(row["category"])
        if not names or any(row[name] is None for name in names):
            return False
        return row["category"] in CONFLICTS or number < self.retain_share


def score_shard(
    triaged: pa.Table,
    selection: Selection,
    model: Any,
    direction: Direction,
    tokenizer: ChatTokenizer,
    config: ImpactConfig,
) -> pa.Table:
    """Returns the trained rows of a shard in SHARD_SCHEMA; those that ``tokenized_rows`` refuses are left out."""
    rows, _ = tokenized_rows(selection.rows(triaged), selection.objective, tokenizer)
    return score_tokens(rows, selection, model, direction, config)


def score_tokens(
    rows: list[Row],
    selection: Selection,
    model: Any,
    direction: Direction,
    config: ImpactConfig,
    budget: TokenBudget | None = None,
) -> pa.Table:
    """Returns rows in SHARD_SCHEMA: tokens, reference log-probs, s(y), CHES and impact.

    Pairs that carry weights are scored: conflicts, and RETAIN where it is no anchor. Others get a plain forward, and
    none at all where their term needs no reference log-probs. s(y) is null where a pair was scored as one row with a
    shared prompt: only its impact is known then.

    Args:
        rows: of ``tokenized_rows``.
        model: in evaluation mode, every parameter frozen, at theta_ref: with the initial adapter, or bare for full.
        direction: v = g_J / gamma.
        budget: tokens of one forward, which shrinks where a batch does not fit; None = those of ``config``.
    """
    if not rows:
        return SHARD_SCHEMA.empty_table()
    refuse_unknown_tokens(rows, model)
    norms = config.score_norm == "cosine"
    objective, kinds = selection.objective, [selection.needs(row["category"]) for row in rows]
    slopes = pair_slopes(rows, objective)
    asked = [_requests(*what, objective, config) for what in zip(rows, kinds, slopes, strict=True)]
    # Impact weights need the pair's impact alone; other weights (U2A's rounds) read each response's s(y).
    share = config.share_prompts and objective.weights == "impact"
    requests, scorer = [request for some in asked for request in some], Scorer(model, direction)
    outcomes = iter(score_pairs(requests, scorer, budget or config.tokens, share_prompts=share, norms=norms))
    size = direction_norm(direction) if norms else 1.0
    found = [[next(outcomes) for _ in some] for some in asked]
    _tell_late(rows, asked, found, objective, config)
    full = [
        row | (_scored(some[0], size) | pair_ches(row, some[0].hidden, objective) if some else {"impact": None})
        for row, some in zip(rows, found, strict=True)
    ]
    return pa.Table.from_pylist(full, schema=SHARD_SCHEMA)


def _tell_late(
    rows: Sequence[Row],
    asked: Sequence[Sequence[PairRequest]],
    found: list[list[PairScores]],
    objective: ObjectiveConfig,
    config: ImpactConfig,
) -> None:
    """Puts the impacts of rows whose slopes waited for their log-probs into ``found``."""
    late = [i for i, some in enumerate(asked) if some and some[0].apart]
    told = pair_slopes([rows[i] for i in late], objective, log_probs=[found[i][0].logp for i in late])
    for i, slope in zip(late, told, strict=True):
        first, *others = found[i]
        impact = sum(value / _size(rows[i], name, config) * first.s[name] for name, value in slope.items())
        found[i] = [replace(first, impact=impact + sum(other.impact or 0.0 for other in others))]


def _requests(
    row: Row, kind: str, slope: Mapping[str, float], objective: ObjectiveConfig, config: ImpactConfig
) -> list[PairRequest]:
    """What is asked of the model for one row: nothing, log-probs, or scores.

    Where a slope depends on the log-probs, which only the forward tells, each response's own s(y) is asked for first; what
    counts token by token is then a request of its own.
    """
    if kind == "tokens":
        return []
    prompt, ids = row["prompt_ids"], {name: row[f"{name}_ids"] for name in objective.responses(row["category"])}
    if kind == "log_probs":
        return [PairRequest(prompt, ids, None)]
    per_token = {
        name: [replace(token_slope, factor=token_slope.factor / _size(row, name, config)) for token_slope in some]
        for name, some in token_slopes(row, objective).items()
    }
    if not any(math.isnan(value) for value in slope.values()):
        coefficients = {name: value / _size(row, name, config) for name, value in slope.items()}
        return [PairRequest(prompt, ids, coefficients, per_token)]
    if config.score_norm == "cosine":
        remedy = f"a term of {row['category']} has a gradient that only its log-probs tell: use none or per_token"
        raise UserError("impact.score_norm", "cosine", remedy)
    first = PairRequest(prompt, ids, dict.fromkeys(ids, 1.0), apart=True)
    return [first, *([PairRequest(prompt, ids, dict.fromkeys(ids, 0.0), per_token)] if per_token else [])]


def _size(row: Row, name: str, config: ImpactConfig) -> int:
    """What a response's score is divided by: its tokens if per_token (ours, against a bias to length)."""
    return max(1, len(row[f"{name}_ids"])) if config.score_norm == "per_token" else 1


def _scored(outcome: PairScores, size: float) -> Row:
    impact = outcome.impact
    if outcome.norm is not None and impact is not None:
        impact = impact / (outcome.norm * size) if outcome.norm * size > 0 else 0.0
    fields: Row = {"impact": impact}
    for name, logp in outcome.logp.items():
        fields |= {f"{name}_ref_logp": logp, f"{name}_s": outcome.s.get(name)}
    return fields


def direction_norm(direction: Direction) -> float:
    """Returns |v|."""
    return float(sum(v.double().square().sum() for v in direction.values()) ** 0.5)
