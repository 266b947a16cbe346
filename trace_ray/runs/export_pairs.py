"""Scored pairs as a preference dataset that other trainers read: turned round where the new policy says so, with weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from trace_ray.errors import UserError
from trace_ray.pairs import MESSAGES, Category
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

EXPORT_SCHEMA = pa.schema(
    [
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("weight", pa.float64()),
        ("category", pa.string()),
        ("source", pa.string()),
        ("pair_id", pa.string()),
    ]
)
"""TRL's conversational preference format, and three columns more. ``chosen`` complies with the new policy."""


def preference(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a scored row as a preference under the new policy; None where it holds no compliant response.

    INVERT prefers what was rejected, PUNISH its corrected response over what was chosen, RETAIN stays as it was.
    """
    preferred, over = {
        Category.INVERT: (row["rejected"], row["chosen"]),
        Category.PUNISH: (row["corrected"], row["chosen"]),
        Category.RETAIN: (row["chosen"], row["rejected"]),
    }[Category(row["category"])]
    if preferred is None:
        return None
    sides = {"chosen": preferred, "rejected": over}
    return {
        "prompt": row["prompt"],
        **{name: [{"role": "assistant", "content": text}] for name, text in sides.items()},
        **{name: row[name] for name in ("weight", "category", "source", "pair_id")},
    }


def export_pairs(run: Run, out: Location) -> tuple[int, int]:
    """Writes one parquet file a part of scored/ into the folder ``out``.

    Returns: (pairs written, pairs left out for want of a compliant response).
    Raises: UserError where the folder holds files: readers would take another export's parts as part of this one.
    """
    if out.fs.get_file_info(out.path).type == pafs.FileType.File:
        raise UserError(out.uri, "a file", "name a folder")
    if out.entries():
        raise UserError(out.uri, "holds files already", "name another folder")
    written = left_out = 0
    for name, rows in _parts(run):
        kept = [pair for pair in map(preference, rows) if pair is not None]
        written, left_out = written + len(kept), left_out + len(rows) - len(kept)
        (out / name).write_parquet(pa.Table.from_pylist(kept, schema=EXPORT_SCHEMA))
    return written, left_out


def _parts(run: Run) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    columns = ["prompt", "chosen", "rejected", "corrected", "weight", "category", "source", "pair_id"]
    for name, table in zip(run.scored.manifest()["parts"], run.scored.tables(columns), strict=True):
        yield name, table.to_pylist()
