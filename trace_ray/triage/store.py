"""Verdicts that outlive a run: a folder of parquet files, one sub-folder for all that a verdict depends on.

STORE/<fingerprint of policy, judge and prompt version>/v-<first slot>-<end slot>-<a name of its own>.parquet. A prompt's
slot is part of its hash, so a block of the corpus reads the few rows of its own slots, whatever the store's size.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.judges.opinion import Clauses, Opinion, clauses_of
from trace_ray.pairs import CLAUSE_P
from trace_ray.storage.location import Location

STORE_SCHEMA = pa.schema(
    [
        ("slot", pa.uint16()),
        ("key", pa.binary(16)),
        ("p_violates", pa.float64()),
        ("error", pa.string()),
        ("clauses", CLAUSE_P),
        ("rationale", pa.string()),
        ("yes_bias", pa.float64()),
    ]
)


def clause_column(clauses: Sequence[Clauses | None]) -> pa.Array:
    """Returns P by clause as a column, CLAUSE_P."""
    return pa.array(
        [None if of_response is None else [{"clause": c, "p": p} for c, p in of_response] for of_response in clauses],
        CLAUSE_P,
    )


OPINION = ("p_violates", "error", "clauses", "rationale", "yes_bias")
"""Columns of an opinion that is final."""


def response_key(request: str, response: str) -> bytes:
    """Returns 16 bytes that stand for one response to one request."""
    asked = request.encode()
    return hashlib.sha256(b"%d:" % len(asked) + asked + response.encode()).digest()[:16]


@dataclass
class VerdictStore:
    """The verdicts of one fingerprint.

    Args:
        place: the sub-folder; ``names`` are the files that were there at first sight: others write of other prompts.
    """

    place: Location
    names: Sequence[str] | None = None

    def read(self, start: int, stop: int) -> dict[bytes, Opinion]:
        """Returns the stored opinions on prompts of slots start..stop."""
        if self.names is None:
            self.names = listed(self.place)
        known: dict[bytes, Opinion] = {}
        for name in self.names:
            first, end = (int(text, 16) for text in name.split("-")[1:3])
            if first < stop and start < end:
                table = (self.place / name).read_parquet()
                mine = pc.and_(pc.greater_equal(table["slot"], start), pc.less(table["slot"], stop))
                known |= _opinions(table.filter(mine))
        return known

    def write(self, start: int, stop: int, new: Mapping[bytes, tuple[int, Opinion]]) -> None:
        """Adds {key: (slot, opinion)}; opinions that another try may change are left out."""
        kept = {key: verdict for key, verdict in new.items() if verdict[1].final}
        if not kept:
            return
        columns: dict[str, pa.Array] = {
            "slot": pa.array([slot for slot, _ in kept.values()], pa.uint16()),
            "key": pa.array(list(kept), pa.binary(16)),
        }
        table = pa.table(columns | opinion_columns([opinion for _, opinion in kept.values()]), schema=STORE_SCHEMA)
        (self.place / f"v-{start:05x}-{stop:05x}-{uuid.uuid4().hex[:12]}.parquet").write_parquet(table)


def listed(place: Location) -> list[str]:
    """Returns the names of a store's files."""
    return [file.name for file in place.files(".parquet")]


def _opinions(table: pa.Table) -> dict[bytes, Opinion]:
    return dict(zip(table["key"].to_pylist(), opinions_of(table), strict=True))


def opinion_columns(opinions: Sequence[Opinion]) -> dict[str, pa.Array]:
    """Returns opinions as columns: all that is kept of a final one."""
    return {
        "p_violates": pa.array([opinion.p_violates for opinion in opinions], pa.float64()),
        "error": pa.array([opinion.error for opinion in opinions], pa.string()),
        "clauses": clause_column([opinion.clauses for opinion in opinions]),
        "rationale": pa.array([opinion.rationale for opinion in opinions], pa.string()),
        "yes_bias": pa.array([opinion.yes_bias for opinion in opinions], pa.float64()),
    }


def opinions_table(opinions: Sequence[Opinion]) -> pa.Table:
    """Returns opinions as a table without keys: what a judged span leaves on disk."""
    return pa.table(
        opinion_columns(opinions) | {"final": pa.array([opinion.final for opinion in opinions], pa.bool_())}
    )


def opinions_of(table: pa.Table) -> list[Opinion]:
    """Returns the opinions in the columns of ``opinion_columns``; those that earlier versions did not write are null."""
    nothing = {"final": [True] * len(table)}
    columns = [
        table[name].to_pylist() if name in table.column_names else nothing.get(name, [None] * len(table))
        for name in (*OPINION, "final")
    ]
    return [
        Opinion(p, error, clauses_of(clauses), final, rationale, bias)
        for p, error, clauses, rationale, bias, final in zip(*columns, strict=True)
    ]
