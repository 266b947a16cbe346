"""What a cascade's first judge decided in a pass of its own, kept until the strong judge's pass: one file a block."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from trace_ray.judges.opinion import Opinion
from trace_ray.storage.location import Location
from trace_ray.triage.store import opinions_of, opinions_table

Decided = Mapping[bytes, Opinion | None]
"""By ``store.response_key``; None = the judge died of it."""


def write_decided(place: Location, decided: Decided) -> None:
    """Writes what was decided of one block."""
    table = opinions_table([opinion or Opinion(None) for opinion in decided.values()])
    killed = pa.array([opinion is None for opinion in decided.values()], pa.bool_())
    keys = pa.array(list(decided), pa.binary(16))
    place.write_parquet(table.append_column("key", keys).append_column("killed", killed))


def read_decided(place: Location) -> Decided:
    """Returns what ``write_decided`` wrote."""
    table = place.read_parquet()
    told = zip(table["key"].to_pylist(), table["killed"].to_pylist(), opinions_of(table), strict=True)
    return {key: None if killed else opinion for key, killed, opinion in told}
