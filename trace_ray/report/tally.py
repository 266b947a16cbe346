"""Counting rows of part files without holding them: what several sections share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.artifacts import Artifact


def published(artifact: Artifact, columns: list[str]) -> Iterator[pa.Table]:
    """Yields the parts of a finished artefact, those of ``columns`` that exist."""
    for name in artifact.manifest()["parts"]:
        place = artifact.place / name
        known = pq.read_schema(place.path, filesystem=place.fs).names
        yield place.read_parquet([column for column in columns if column in known])


def count_by(artifact: Artifact, columns: list[str]) -> Counter[tuple[Any, ...]]:
    """Returns rows by their values in ``columns``."""
    counted: Counter[tuple[Any, ...]] = Counter()
    for table in published(artifact, columns):
        groups = table.group_by(columns).aggregate([([], "count_all")])
        keys = zip(*(groups[column].to_pylist() for column in columns), strict=True)
        for key, number in zip(keys, groups["count_all"].to_pylist(), strict=True):
            counted[key] += number
    return counted
