"""Algorithm 2's gold batch: what the new policy wants, made from triaged pairs. Seeded by hash, so no order matters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer, RefusedText
from trace_ray.config import Config, ImpactConfig
from trace_ray.errors import UserError
from trace_ray.pairs import GOLD_SCHEMA, Category, hash_fraction

Row = dict[str, Any]
PAIR_COLUMNS = ["pair_id", "category", "split", "prompt", "chosen", "rejected", "corrected"]


def gold_batch(parts: Iterable[pa.Table], config: Config, tokenizer: ChatTokenizer) -> pa.Table:
    """Returns the gold batch of triaged parts in GOLD_SCHEMA, as the settings choose it."""
    impact, corrected = config.impact, config.objective.corrects
    return tokenize_gold(choose_gold(parts, impact.gold_size, impact.seed, corrected=corrected), tokenizer)


def curvature_sample(parts: Iterable[pa.Table], impact: ImpactConfig, tokenizer: ChatTokenizer) -> pa.Table:
    """Returns the RETAIN pairs that the curvature is measured on, in GOLD_SCHEMA. Raises UserError where there is none."""
    chosen = choose_retain(parts, impact.curvature_pairs, impact.seed)
    if not chosen:
        raise UserError("impact.curvature", "gauss_newton", "no RETAIN pair to measure curvature on; use identity")
    return tokenize_gold(chosen, tokenizer)


def shares(size: int, available: dict[str, int]) -> dict[str, int]:
    """Returns how many gold pairs each category gives: a third each, and what one lacks the conflicts make up.

    Raises: UserError where there is no conflict at all.
    """
    third = size // 3
    wanted = {Category.RETAIN: third, Category.INVERT: third, Category.PUNISH: size - 2 * third}
    taken = {name: min(count, available.get(name, 0)) for name, count in wanted.items()}
    if not any(available.values()):
        remedy = "all are refused, held out or undecided: see rejects/ and triaged/, and `trace-ray check` on the files"
        raise UserError("triaged/", "no training pair that is RETAIN, INVERT or PUNISH", remedy)
    if not available.get(Category.INVERT) and not available.get(Category.PUNISH):
        raise UserError(
            "triaged/",
            "no conflict",
            "no training pair is INVERT or PUNISH: the model needs no realignment, or the judge is blind",
        )
    for name in (Category.INVERT, Category.PUNISH, Category.RETAIN):
        missing = size - sum(taken.values())
        taken[name] += min(missing, available.get(name, 0) - taken[name])
    return {str(name): count for name, count in taken.items()}


def choose_gold(parts: Iterable[pa.Table], size: int, seed: int, *, corrected: bool) -> list[Row]:
    """Returns the gold batch as rows {pair_id, category, prompt, preferred, dispreferred}.

    RETAIN as it is, INVERT turned round, PUNISH with a compliant response over y_w: with ``corrected`` (methods that train
    on y_c) its own, else (Algorithm 2) one drawn from another pair.

    Args:
        parts: tables with PAIR_COLUMNS, only training pairs used.
    Raises: UserError where there is no conflict, or none but PUNISH pairs that no compliant response can be found for.
    """
    kept: dict[str, list[tuple[float, Row]]] = {
        name: [] for name in (Category.RETAIN, Category.INVERT, Category.PUNISH, "lenders")
    }
    available: dict[str, int] = {}
    punish = 0
    for part in parts:
        rows = [
            row for row in part.select(PAIR_COLUMNS).to_pylist() if row["split"] == "train" and row["category"] in kept
        ]
        ids = [row["pair_id"] for row in rows]
        for row, order, lending in zip(rows, hash_fraction(ids, seed), hash_fraction(ids, seed + 1), strict=True):
            punish += row["category"] == Category.PUNISH
            if row["category"] == Category.PUNISH and corrected and row["corrected"] is None:
                continue
            available[row["category"]] = available.get(row["category"], 0) + 1
            kept[row["category"]].append((order, row))
            if row["category"] != Category.PUNISH:
                kept["lenders"].append((lending, row))
        kept = {name: sorted(entries, key=lambda e: (e[0], e[1]["pair_id"]))[:size] for name, entries in kept.items()}
    lenders = [row for _, row in kept["lenders"]]
    if not lenders and not corrected:
        available[Category.PUNISH] = 0
    if punish and not available.get(Category.PUNISH) and not available.get(Category.INVERT):
        remedy = "no compliant response is there to prefer: " + (
            "give triage.gold_responses, or another corrector"
            if corrected
            else "add pairs with one, or use --method trace_oracle with triage.correct=true"
        )
        raise UserError("triaged/", f"{punish} conflicts, all PUNISH", remedy)
    chosen = shares(size, available)
    gold = [row for name, count in chosen.items() for _, row in kept[name][:count]]
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


def choose_retain(parts: Iterable[pa.Table], size: int, seed: int) -> list[Row]:
    """Returns the RETAIN sample of the curvature in the gold batch's columns: training pairs, the first by hash."""
    kept: list[tuple[float, str, Row]] = []
    for part in parts:
        rows = [r for r in part.select(PAIR_COLUMNS).to_pylist() if r["split"] == "train"]
        rows = [r for r in rows if r["category"] == Category.RETAIN]
        drawn = hash_fraction([r["pair_id"] for r in rows], seed + 2)
        kept += [(number, r["pair_id"], r) for number, r in zip(drawn, rows, strict=True)]
        kept = sorted(kept, key=lambda entry: entry[:2])[:size]
    return [_gold_row(row, None, corrected=False) for _, _, row in kept]


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
