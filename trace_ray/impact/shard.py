"""Scores one shard of triaged rows: a pure function of rows, model, direction and settings. No Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from trace_ray.batching import token_batches
from trace_ray.config import ImpactConfig, ObjectiveConfig, TermConfig
from trace_ray.impact.scores import Direction, score_batch
from trace_ray.log_probs import collate, response_log_probs
from trace_ray.losses import reference_slopes
from trace_ray.pairs import CONFLICTS, RESPONSE_NAMES, SCORED_SCHEMA, TRAINED, TRIAGED_SCHEMA, Split, hash_fraction
from trace_ray.text import ChatTokenizer, TokenizedPair

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

    def term(self, category: str) -> TermConfig:
        return getattr(self.objective, category)  # type: ignore[no-any-return]

    def responses(self, category: str) -> list[str]:
        """Returns the names of the responses that the category's term reads."""
        term = self.term(category)
        return [name for name in RESPONSE_NAMES if name in (term.prefer, *term.suppress)] if term.loss != "skip" else []

    def rows(self, triaged: pa.Table) -> list[Row]:
        """Returns the rows to train on, in order; those without a response that their term reads are left out."""
        rows = triaged.select(TRIAGED_SCHEMA.names).to_pylist()
        drawn = hash_fraction([row["pair_id"] for row in rows], self.seed)
        return [row for row, number in zip(rows, drawn, strict=True) if self._takes(row, number)]

    def _takes(self, row: Row, number: float) -> bool:
        if row["split"] != Split.TRAIN or row["category"] not in TRAINED:
            return False
        names = self.responses(row["category"])
        if not names or any(row[name] is None for name in names):
            return False
        return row["category"] in CONFLICTS or number < self.retain_share


@dataclass(frozen=True)
class ScoredSequence:
    """One response to be run through the model."""

    row: int
    name: str
    pair: TokenizedPair
    scored: bool

    @property
    def ids(self) -> list[int]:
        return self.pair.response_ids[self.name]

    def __len__(self) -> int:
        return len(self.pair.prompt_ids) + len(self.ids)


def score_shard(
    triaged: pa.Table,
    selection: Selection,
    model: Any,
    direction: Direction,
    tokenizer: ChatTokenizer,
    config: ImpactConfig,
) -> pa.Table:
    """Returns the trained rows of a shard in SHARD_SCHEMA: tokens, reference log-probs, s(y) and impact.

    Conflicts get s(y); RETAIN pairs a plain forward, and none at all where their term needs no reference log-probs.

    Args:
        model: a PEFT model in evaluation mode, every parameter frozen, the initial adapter loaded.
        direction: v = g_J / gamma.
    """
    rows = selection.rows(triaged)
    if not rows:
        return SHARD_SCHEMA.empty_table()
    names = [selection.responses(row["category"]) for row in rows]
    pairs = tokenizer.pairs(
        [r["prompt"] for r in rows], [{n: r[n] for n in some} for r, some in zip(rows, names, strict=True)]
    )
    sequences = [
        ScoredSequence(i, name, pairs[i], row["category"] in CONFLICTS)
        for i, row in enumerate(rows)
        for name in names[i]
        if row["category"] in CONFLICTS or selection.term(row["category"]).loss not in ("kl", "sft")
    ]
    results = _run(sequences, model, direction, config.batch_tokens)
    full = [_scored_row(row, i, pairs[i], results, selection, config) for i, row in enumerate(rows)]
    return pa.Table.from_pylist(full, schema=SHARD_SCHEMA)


def _run(
    sequences: Sequence[ScoredSequence], model: Any, direction: Direction, batch_tokens: int
) -> dict[tuple[int, str], tuple[float, float | None]]:
    device = next(model.parameters()).device
    results: dict[tuple[int, str], tuple[float, float | None]] = {}
    for scored in (True, False):
        group = [one for one in sequences if one.scored == scored]
        for indices in token_batches([len(one) for one in group], batch_tokens):
            chunk = [group[i] for i in indices]
            batch = collate([one.pair.prompt_ids for one in chunk], [one.ids for one in chunk]).to(device)
            if scored:
                logp, s = (values.tolist() for values in score_batch(model, batch, direction))
            else:
                with torch.inference_mode():
                    logp = response_log_probs(model, batch).tolist()
                s = [None] * len(logp)
            results |= {(one.row, one.name): pair for one, pair in zip(chunk, zip(logp, s, strict=True), strict=True)}
    return results


def _scored_row(
    row: Row,
    index: int,
    pair: TokenizedPair,
    results: dict[tuple[int, str], tuple[float, float | None]],
    selection: Selection,
    config: ImpactConfig,
) -> Row:
    scored = dict(row) | {"prompt_ids": pair.prompt_ids}
    for name, ids in pair.response_ids.items():
        logp, s = results.get((index, name), (None, None))
        scored |= {f"{name}_ids": ids, f"{name}_ref_logp": logp, f"{name}_s": s}
    conflict = row["category"] in CONFLICTS
    return scored | {"impact": pair_impact(scored, selection, config) if conflict else None}


def pair_impact(scored: Row, selection: Selection, config: ImpactConfig) -> float:
    """Returns < v, grad l_i(theta_ref) >: the slopes of the pair's loss times its responses' s(y).

    With ``score_norm`` per_token each s(y) is divided by its response's tokens (ours, against a bias to length).
    """
    term = selection.term(scored["category"])
    length = {
        name: torch.tensor([float(len(scored[f"{name}_ids"]))]) for name in selection.responses(scored["category"])
    }
    slopes = reference_slopes(term, selection.objective, length)
    per_token = config.score_norm == "per_token"
    return float(sum(slopes[n].item() * scored[f"{n}_s"] / (length[n].item() if per_token else 1.0) for n in slopes))
