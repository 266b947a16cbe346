"""Label noise on purpose: triage's categories flipped, or a pair's sides swapped, at given rates. Seeded, per row.

Noise is laid over triaged rows as training reads them; triaged/ itself stays as it was judged. Which row is hit depends
on its pair_id and the seed alone, so shards, order and other rows change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from trace_ray.config import NoiseConfig
from trace_ray.pairs import TRAINED, Split, hash_fraction

NOISE = "noise"
"""In impact/: the damaged rows, a file a part of triaged/ that holds any."""
NOISE_SCHEMA = pa.schema(
    [("pair_id", pa.string()), ("kind", pa.string()), ("was", pa.string()), ("category", pa.string())]
)
"""One damaged row: ``kind`` is ``flip`` or ``swap``."""

_OF_A_SIDE = ("", "p_violates_", "raw_violates_", "clauses_", "clause_p_", "rationale_")
_SIDES = {f"{name}chosen": f"{name}rejected" for name in _OF_A_SIDE}


def with_label_noise(rows: Sequence[Mapping[str, Any]], noise: NoiseConfig) -> list[dict[str, Any]]:
    """Returns the rows, a share ``flip`` of the trained ones in another category and a share ``swap`` with sides swapped.

    A flipped row takes one of the two other categories of training, either as likely. A row is never both. Test rows and
    ABSTAIN rows are left alone.

    >>> row = {"pair_id": "1", "split": "train", "category": "RETAIN", "chosen": "a", "rejected": "b"}
    >>> with_label_noise([row], NoiseConfig(swap=1.0))[0]["chosen"]
    'b'
    """
    kinds = noise_kinds(rows, noise)
    turn = hash_fraction([row["pair_id"] for row in rows], noise.seed, "noise, to what")
    return [_damaged(row, kind, number) for row, kind, number in zip(rows, kinds, turn, strict=True)]


def noise_kinds(rows: Sequence[Mapping[str, Any]], noise: NoiseConfig) -> list[str | None]:
    """Returns ``flip``, ``swap`` or None for each row (pair_id, split, category)."""
    drawn = hash_fraction([row["pair_id"] for row in rows], noise.seed, "noise")
    return [
        _kind(number, noise) if row["split"] == Split.TRAIN and row["category"] in TRAINED else None
        for row, number in zip(rows, drawn, strict=True)
    ]


def _kind(number: float, noise: NoiseConfig) -> str | None:
    if number < noise.flip:
        return "flip"
    return "swap" if number < noise.flip + noise.swap else None


def _damaged(row: Mapping[str, Any], kind: str | None, number: float) -> dict[str, Any]:
    changed = dict(row)
    if kind == "flip":
        others = [name.value for name in TRAINED if name != row["category"]]
        changed["category"] = others[int(number * len(others))]
    elif kind == "swap":
        for column, other in _SIDES.items():
            if column in row:
                changed[column], changed[other] = row[other], row[column]
    return changed


def noisy_table(table: pa.Table, noise: NoiseConfig) -> pa.Table:
    """Returns a table of triaged rows with the noise laid over it; the table itself where there is none."""
    if not noise.flip and not noise.swap:
        return table
    return pa.Table.from_pylist(with_label_noise(table.to_pylist(), noise), schema=table.schema)


def noise_record(table: pa.Table, noise: NoiseConfig) -> pa.Table:
    """Returns one row in NOISE_SCHEMA for each damaged row of a table of triaged rows, to be kept beside the scores."""
    rows = table.select(["pair_id", "split", "category"]).to_pylist()
    damaged = with_label_noise(rows, noise)
    found = [
        {"pair_id": row["pair_id"], "kind": kind, "was": row["category"], "category": after["category"]}
        for row, after, kind in zip(rows, damaged, noise_kinds(rows, noise), strict=True)
        if kind
    ]
    return pa.Table.from_pylist(found, schema=NOISE_SCHEMA)


def noise_counts(record: pa.Table) -> dict[str, int]:
    """Returns how many rows were damaged, by kind."""
    return dict(Counter(f"noise {kind}" for kind in record["kind"].to_pylist()))
