"""Scores one shard of triaged rows: a pure function of rows, model, direction and settings. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer
from trace_ray.config import ImpactConfig, ObjectiveConfig
from trace_ray.impact.pair_scores import PairRequest, PairScores, score_pairs
from trace_ray.impact.rows import tokenized_rows
from trace_ray.impact.scores import Direction, Scorer
from trace_ray.model.known import refuse_unknown_tokens
from trace_ray.objective.slopes import pair_slopes
from trace_ray.pairs import CONFLICTS, SCORED_SCHEMA, TRAINED, TRIAGED_SCHEMA, Split, hash_fraction

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
        return "tokens" if self.objective.term(category).loss in ("kl", "sft") else "log_probs"

    def rows(self, triaged: pa.Table) -> list[Row]:
        """Returns the rows to train on, in order; those without a response that their term reads are left out."""
        rows = triaged.select(TRIAGED_SCHEMA.names).to_pylist()
        drawn = hash_fraction([row["pair_id"] for row in rows], self.seed, "retain")
        return [row for row, number in zip(rows, drawn, strict=True) if self._takes(row, number)]

    def _takes(self, row: Row, number: float) -> bool:
        if row["split"] != Split.TRAIN or row["category"] not in TRAINED:
            return False
        names = self.objective.term(row["category"]).responses
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
    rows: list[Row], selection: Selection, model: Any, direction: Direction, config: ImpactConfig
) -> pa.Table:
    """Returns rows in SHARD_SCHEMA: tokens, reference log-probs, s(y) and impact.

    Pairs that carry weights are scored: conflicts, and RETAIN where it is no anchor. Others get a plain forward, and
    none at all where their term needs no reference log-probs. s(y) is null where a pair was scored as one row with a
    shared prompt: only its impact is known then.

    Args:
        rows: of ``tokenized_rows``.
        model: in evaluation mode, every parameter frozen, at theta_ref: with the initial adapter, or bare for full.
        direction: v = g_J / gamma.
    """
    if not rows:
        return SHARD_SCHEMA.empty_table()
    names = [selection.objective.term(row["category"]).responses for row in rows]
    refuse_unknown_tokens(rows, model)
    slopes = pair_slopes(rows, selection.objective)
    kinds = [selection.needs(row["category"]) for row in rows]
    requests = [
        PairRequest(
            row["prompt_ids"],
            {name: row[f"{name}_ids"] for name in some},
            _coefficients(row, slope, config) if kind == "score" else None,
        )
        for row, some, slope, kind in zip(rows, names, slopes, kinds, strict=True)
        if kind != "tokens"
    ]
    norms = config.score_norm == "cosine"
    # Impact weights need the pair's impact alone; other weights (U2A's rounds) read each response's s(y).
    share = config.share_prompts and selection.objective.weights == "impact"
    outcomes = iter(
        score_pairs(requests, Scorer(model, direction), config.batch_tokens, share_prompts=share, norms=norms)
    )
    size = direction_norm(direction) if norms else 1.0
    full = []
    for row, kind in zip(rows, kinds, strict=True):
        full.append(row | ({"impact": None} if kind == "tokens" else _scored(next(outcomes), size)))
    return pa.Table.from_pylist(full, schema=SHARD_SCHEMA)


def _coefficients(row: Row, slope: Mapping[str, float], config: ImpactConfig) -> dict[str, float]:
    """What each s(y) counts; per_token divides it by the response's tokens (ours, against a bias to length)."""
    per_token = config.score_norm == "per_token"
    return {name: c / (max(1, len(row[f"{name}_ids"])) if per_token else 1) for name, c in slope.items()}


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
