"""The rows that a shard trains on, in tokens, and those of them that no model can learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer, RefusedText, TokenizedPair
from trace_ray.config import ObjectiveConfig
from trace_ray.pairs import CONFLICTS, REJECT_SCHEMA, Category, RejectReason

Row = dict[str, Any]
_ANSWERS = ("chosen", "rejected")


def retain_share(trained: Mapping[str, int], per_conflict: float) -> float:
    """Returns the share of RETAIN pairs that are taken: ``impact.retain_per_conflict`` for each conflict.

    Args:
        trained: training pairs by category.
    """
    conflicts = sum(trained.get(name, 0) for name in CONFLICTS)
    return per_conflict * conflicts / max(1, trained.get(Category.RETAIN, 0))


def tokenized_rows(
    rows: Sequence[Row], objective: ObjectiveConfig, tokenizer: ChatTokenizer
) -> tuple[list[Row], list[Row]]:
    """Returns the rows with their tokens (``prompt_ids``, ``{name}_ids``, ``cut``), and those refused, in REJECT_SCHEMA.

    Refused: what the chat template does not take, and pairs whose two answers are the same once the template has trimmed
    them or the end beyond max_length is gone.

    Args:
        rows: selected ones of triaged/.
        objective: its terms name the responses that are read.
    """
    names = [objective.responses(row["category"]) for row in rows]
    found = _pairs(rows, names, tokenizer)
    whole = _both_answers(rows, found, tokenizer)
    kept, refused = [], []
    for number, (row, pair) in enumerate(zip(rows, found, strict=True)):
        problem = pair if isinstance(pair, RefusedText) else _sameness(row, whole.get(number, pair))
        if problem is not None:
            facts = {"row": row["row"], "source": row["source"], "stage": "impact"}
            refused.append(facts | {"reason": problem.reason.value, "detail": problem.detail})
        elif isinstance(pair, TokenizedPair):
            ids = {f"{name}_ids": tokens for name, tokens in pair.response_ids.items()}
            kept.append(row | {"prompt_ids": pair.prompt_ids, "cut": list(pair.truncated), **ids})
    return kept, refused


def _pairs(
    rows: Sequence[Row], names: Sequence[Sequence[str]], tokenizer: ChatTokenizer
) -> list[TokenizedPair | RefusedText]:
    return tokenizer.pairs(
        [row["prompt"] for row in rows], [{n: row[n] for n in some} for row, some in zip(rows, names, strict=True)]
    )


def _both_answers(
    rows: Sequence[Row], found: Sequence[TokenizedPair | RefusedText], tokenizer: ChatTokenizer
) -> dict[int, TokenizedPair]:
    """{row's place: its pair with both answers}, where the term reads one of them alone and that one was cut."""
    asked = [
        i
        for i, pair in enumerate(found)
        if isinstance(pair, TokenizedPair)
        and set(_ANSWERS) & set(pair.truncated)
        and not set(_ANSWERS) <= set(pair.response_ids)
    ]
    again = _pairs([rows[i] for i in asked], [_ANSWERS] * len(asked), tokenizer)
    return {i: pair for i, pair in zip(asked, again, strict=True) if isinstance(pair, TokenizedPair)}


def _sameness(row: Row, pair: TokenizedPair) -> RefusedText | None:
    """Why the pair's two answers are one and the same, None where they differ."""
    first, second = (pair.response_ids.get(name) for name in _ANSWERS)
    if first is None or second is None:
        same, cut = row["chosen"].strip() == row["rejected"].strip(), False
    else:
        same, cut = first == second, bool(set(_ANSWERS) & set(pair.truncated))
    if not same:
        return None
    if cut:
        detail = f"both answers begin with the same {len(first or ())} tokens, and model.max_length leaves no more"
        return RefusedText(RejectReason.EQUAL_AFTER_CUT, detail)
    return RefusedText(RejectReason.IDENTICAL_RESPONSES, f"both answers are {str(row['chosen'])[:80]!r} to the model")


def refused_table(refused: Sequence[Row]) -> pa.Table:
    """Returns refused rows in REJECT_SCHEMA."""
    return pa.Table.from_pylist(list(refused), schema=REJECT_SCHEMA)
