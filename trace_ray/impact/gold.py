"""Algorithm 2's gold batch: what the new policy wants, made from triaged pairs. Seeded by hash, so no order matters."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer, RefusedText
from trace_ray.config import Config, ImpactConfig
from trace_ray.errors import NothingToTrainError, UserError
from trace_ray.pairs import GOLD_SCHEMA, TRAINED, Category, Split, hash_fraction

Row = dict[str, Any]
LENDERS = "lenders"
"""Those whose compliant response a PUNISH pair may borrow."""
PAIR_COLUMNS = ["pair_id", "category", "split", "prompt", "chosen", "rejected", "corrected"]


def gold_batch(parts: Iterable[pa.Table], config: Config, tokenizer: ChatTokenizer) -> pa.Table:
    """Returns the gold batch of triaged parts in GOLD_SCHEMA, as the settings choose it."""
    impact, corrected = config.impact, config.objective.corrects
    return tokenize_gold(choose_gold(parts, impact.gold_size, impact.seed, corrected=corrected), tokenizer)


def curvature_sample(parts: Iterable[pa.Table], impact: ImpactConfig, tokenizer: ChatTokenizer) -> pa.Table:
    """Returns the RETAIN pairs that the curvature is measured on, in GOLD_SCHEMA. Raises UserError where there is none."""
    return tokenize_retain(choose_retain(parts, impact.curvature_pairs, impact.seed), tokenizer)


def tokenize_retain(chosen: Sequence[Row], tokenizer: ChatTokenizer) -> pa.Table:
    """Returns the sample of ``pick_retain`` in GOLD_SCHEMA. Raises UserError where it is empty."""
    if not chosen:
        raise UserError("impact.curvature", "gauss_newton", "no RETAIN pair to measure curvature on; use identity")
    return tokenize_gold(chosen, tokenizer)


def shares(size: int, available: dict[str, int]) -> dict[str, int]:
    """Returns how many gold pairs each category gives: a third each, and what one lacks the conflicts make up.

    Raises: NothingToTrainError where there is no conflict at all, UserError where there is no training pair either.
    """
    third = size // 3
    wanted = {Category.RETAIN: third, Category.INVERT: third, Category.PUNISH: size - 2 * third}
    taken = {name: min(count, available.get(name, 0)) for name, count in wanted.items()}
    if not any(available.values()):
        remedy = "all are refused, held out or undecided: see rejects/ and triaged/, and `trace-ray check` on the files"
        raise UserError("triaged/", "no training pair that is RETAIN, INVERT or PUNISH", remedy)
    if not available.get(Category.INVERT) and not available.get(Category.PUNISH):
        raise NothingToTrainError(
            "triaged/",
            "no conflict",
            "no training pair is INVERT or PUNISH: the model needs no realignment, or the judge is blind",
        )
    for name in (Category.INVERT, Category.PUNISH, Category.RETAIN):
        missing = size - sum(taken.values())
        taken[name] += min(missing, available.get(name, 0) - taken[name])
    return {str(name): count for name, count in taken.items()}


@dataclass(frozen=True)
class Candidates:
    """Who of some triaged rows may be in the gold batch; candidates of any parts, in any order, add up to those of all.

    Args:
        size: of the batch.
        available: training pairs by category; punish: PUNISH pairs, those without a compliant response too.
        kept: category, or LENDERS, -> the first ``size`` rows by their draw, with it.
    """

    size: int
    available: Mapping[str, int] = field(default_factory=dict)
    punish: int = 0
    kept: Mapping[str, Sequence[tuple[float, Row]]] = field(default_factory=dict)

    def __add__(self, other: Candidates) -> Candidates:
        kinds = dict.fromkeys([*self.kept, *other.kept])
        return Candidates(
            self.size,
            dict(Counter(self.available) + Counter(other.available)),
            self.punish + other.punish,
            {kind: first([*self.kept.get(kind, ()), *other.kept.get(kind, ())], self.size) for kind in kinds},
        )


def first(drawn: Iterable[tuple[float, Row]], size: int) -> list[tuple[float, Row]]:
    """Returns the ``size`` rows of the lowest draws, in order: of all rows the same ones however they come in parts."""
    return heapq.nsmallest(size, drawn, key=lambda entry: (entry[0], entry[1]["pair_id"]))


def gold_candidates(part: pa.Table, size: int, seed: int, *, corrected: bool) -> Candidates:
    """Returns the candidates of one table with PAIR_COLUMNS; its training pairs alone are used."""
    rows = [row for row in part.select(PAIR_COLUMNS).to_pylist() if row["split"] == Split.TRAIN]
    rows = [row for row in rows if row["category"] in TRAINED]
    usable = [
        row for row in rows if row["category"] != Category.PUNISH or not corrected or row["corrected"] is not None
    ]
    lenders = [row for row in usable if row["category"] != Category.PUNISH]
    kept: dict[str, list[tuple[float, Row]]] = {LENDERS: first(_draws(lenders, seed + 1), size)}
    for name in TRAINED:
        kept[name] = first(_draws([row for row in usable if row["category"] == name], seed), size)
    return Candidates(
        size, Counter(row["category"] for row in usable), sum(row["category"] == Category.PUNISH for row in rows), kept
    )


def _draws(rows: Sequence[Row], seed: int) -> Iterator[tuple[float, Row]]:
    return zip(hash_fraction([row["pair_id"] for row in rows], seed), rows, strict=True)


def choose_gold(parts: Iterable[pa.Table], size: int, seed: int, *, corrected: bool) -> list[Row]:
    """Returns ``pick_gold`` of the candidates of some parts with PAIR_COLUMNS."""
    found = (gold_candidates(part, size, seed, corrected=corrected) for part in parts)
    return pick_gold(sum(found, Candidates(size)), corrected=corrected)


def pick_gold(candidates: Candidates, *, corrected: bool) -> list[Row]:
    """Returns the gold batch as rows {pair_id, category, prompt, preferred, dispreferred}.

    RETAIN as it is, INVERT turned round, PUNISH with a compliant response over y_w: with ``corrected`` (methods that train
    on y_c) its own, else (Algorithm 2) one drawn from another pair.

    Raises: UserError where there is no conflict, or none but PUNISH pairs that no compliant response can be found for.
    """
    lenders = [row for _, row in candidates.kept.get(LENDERS, ())]
    available, punish = dict(candidates.available), candidates.punish
    if not lenders and not corrected:
        available[Category.PUNISH] = 0
    if punish and not available.get(Category.PUNISH) and not available.get(Category.INVERT):
        remedy = "no compliant response is there to prefer: " + (
            "give triage.gold_responses, or another corrector"
            if corrected
            else "add pairs with one, or use --method trace_oracle with triage.correct=true"
        )
        raise UserError("triaged/", f"{punish} conflicts, all PUNISH", remedy)
    chosen = shares(candidates.size, available)
    gold = [row for name, count in chosen.items() for _, row in candidates.kept.get(name, ())[:count]]
    return [
        _gold_row(row, lenders[i % len(lenders)] if lenders else None, corrected=corrected)
        for i, row in enumerate(gold)
    ]


def _gold_row(row: Row, lender: Row | None, *, corrected: bool) -> Row:
    match row["category"]:
        case Category.RETAIN:
            sides = row["chosen"], row["rejected"]
        case Category.INVERT:
            sides = row["rejected"], row["chosen"]
        case _:
            sides = (row["corrected"] if corrected or lender is None else _compliant(lender)), row["chosen"]
    return {**{k: row[k] for k in ("pair_id", "category", "prompt")}, "preferred": sides[0], "dispreferred": sides[1]}


def _compliant(lender: Row) -> str:
    return str(lender["chosen"] if lender["category"] == Category.RETAIN else lender["rejected"])


def retain_candidates(part: pa.Table, size: int, seed: int) -> list[tuple[float, Row]]:
    """Returns the RETAIN training pairs of one table with PAIR_COLUMNS that come first by hash, with their draws."""
    rows = [row for row in part.select(PAIR_COLUMNS).to_pylist() if row["split"] == Split.TRAIN]
    return first(_draws([row for row in rows if row["category"] == Category.RETAIN], seed + 2), size)


def pick_retain(candidates: Iterable[tuple[float, Row]]) -> list[Row]:
    """Returns the RETAIN sample of the curvature in the gold batch's columns."""
    return [_gold_row(row, None, corrected=False) for _, row in candidates]


def choose_retain(parts: Iterable[pa.Table], size: int, seed: int) -> list[Row]:
    """Returns ``pick_retain`` of the candidates of some parts with PAIR_COLUMNS."""
    drawn = [entry for part in parts for entry in retain_candidates(part, size, seed)]
    return pick_retain(first(drawn, size))


def tokenize_gold(rows: Sequence[Row], tokenizer: ChatTokenizer) -> pa.Table:
    """Returns the gold batch in GOLD_SCHEMA, rendered as training renders it, without what the chat template refuses.

    Raises: UserError where that leaves none.
    """
    responses = [{"preferred": row["preferred"], "dispreferred": row["dispreferred"]} for row in rows]
    pairs = tokenizer.pairs([row["prompt"] for row in rows], responses)
    full = [
        {**row, "prompt_ids": pair.prompt_ids, **{f"{side}_ids": ids for side, ids in pair.response_ids.items()}}
        for row, pair in zip(rows, pairs, strict=True)
        if not isinstance(pair, RefusedText)
    ]
    refused = [pair.detail for pair in pairs if isinstance(pair, RefusedText)]
    if refused and not full:
        raise UserError("model.chat_template", f"none of {len(rows)} gold pairs can be put into tokens", refused[0])
    return pa.Table.from_pylist(full, schema=GOLD_SCHEMA)
