"""Prompts that the policy model's chat template does not take: left out before anything is asked, counted and told."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from trace_ray.chat.text import ChatTokenizer, RefusedText
from trace_ray.errors import UserError
from trace_ray.evaluate.answering import Row, asked_turns
from trace_ray.pairs import REJECT_SCHEMA
from trace_ray.runtime.progress import warn
from trace_ray.storage.location import Location

_SCHEMA = REJECT_SCHEMA.append(pa.field("pair_id", pa.string()))


def taken(prompts: Sequence[Row], tokenizer: ChatTokenizer, place: Location) -> list[Row]:
    """Returns the prompts that the template takes, and stores the others at ``place``.

    Raises: UserError where it takes none.
    """
    found = tokenizer.prompts([asked_turns(row) for row in prompts])
    kept = [row for row, ids in zip(prompts, found, strict=True) if not isinstance(ids, RefusedText)]
    lost = [(row, ids) for row, ids in zip(prompts, found, strict=True) if isinstance(ids, RefusedText)]
    if not lost:
        return kept
    said = f"{len(lost)} of {len(prompts)} prompts cannot be asked"
    if not kept:
        raise UserError("model.chat_template", said, lost[0][1].detail)
    warn(f"evaluate: {said}: {lost[0][1].detail}")
    rows = [
        {
            "row": None,
            "source": row["source"],
            "stage": "evaluate",
            "reason": refusal.reason.value,
            "detail": refusal.detail,
        }
        | {"pair_id": row["pair_id"]}
        for row, refusal in lost
    ]
    place.write_parquet(pa.Table.from_pylist(rows, schema=_SCHEMA))
    return kept
