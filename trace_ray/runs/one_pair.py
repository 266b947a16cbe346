"""Everything that a run knows of one pair, gathered from its folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.errors import UserError
from trace_ray.pairs import TOKENS
from trace_ray.runs.artifacts import RESPONSES, Run
from trace_ray.runs.weights import WEIGHTS, read_part
from trace_ray.storage.location import Location

_SHOWN = 3
"""Ids named of those that begin with what was asked."""


def pair_record(run: Run, asked: str) -> dict[str, Any]:
    """Returns {what: its row} of one pair: ``triaged``, and where there is one ``gold``, ``scored``; ``answers`` is a list.

    Token ids are left out, and of ``scored`` the columns that ``triaged`` has.

    Args:
        asked: a pair's id, or as much of its beginning as no other pair has.
    Raises: UserError where no triaged pair has that id, or several begin so.
    """
    pair_id = _whole_id(run.triaged.parts(), asked)
    triaged = next(_rows(run.triaged.parts(), pair_id))
    rule = run.scored.manifest().get(WEIGHTS) if run.scored.done() else None
    scored = next(_rows(run.scored.parts(), pair_id, rule), {})
    found: dict[str, Any] = {"triaged": triaged}
    gold = next(_rows([part for part in run.impact.parts() if part.name == "gold.parquet"], pair_id), None)
    if gold is not None:
        found["gold"] = gold
    if more := {name: value for name, value in scored.items() if name not in triaged}:
        found["scored"] = more
    answers = list(_rows((run.evaluation.place / RESPONSES).files(".parquet"), pair_id))
    return found | {"answers": answers} if answers else found


def _whole_id(parts: list[Location], asked: str) -> str:
    """Returns the one id that is, or begins with, what was asked."""
    begun: list[str] = []
    for part in parts:
        ids = part.read_parquet(["pair_id"])["pair_id"]
        found = ids.filter(pc.starts_with(ids, asked)).to_pylist()
        if asked in found:
            return asked
        begun = sorted({*begun, *found})[:_SHOWN]
    if not begun:
        remedy = "no triaged pair has that id; pair_id is a column of triaged/, and in the report beside each example"
        raise UserError("show", asked, remedy)
    if len(begun) > 1:
        raise UserError("show", asked, f"several ids begin so ({', '.join(begun)}): give more of it")
    return begun[0]


def _rows(parts: list[Location], pair_id: str, rule: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of one pair; of a part that does not have it only the ids are read."""
    for part in parts:
        if pair_id not in part.read_parquet(["pair_id"])["pair_id"].to_pylist():
            continue
        table = read_part(part, None, rule)
        mine = table.filter(pc.equal(table["pair_id"], pa.scalar(pair_id)))
        yield from mine.drop_columns([field.name for field in table.schema if field.type == TOKENS]).to_pylist()
