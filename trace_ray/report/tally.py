"""Counting rows of part files without holding them: what several sections share."""

from __future__ import annotations

from collections import Counter
from typing import Any

from trace_ray.runs.artifacts import Artifact


def count_by(artifact: Artifact, columns: list[str]) -> Counter[tuple[Any, ...]]:
    """Returns rows by their values in ``columns``."""
    counted: Counter[tuple[Any, ...]] = Counter()
    for table in artifact.tables(columns):
        groups = table.group_by(columns).aggregate([([], "count_all")])
        keys = zip(*(groups[column].to_pylist() for column in columns), strict=True)
        for key, number in zip(keys, groups["count_all"].to_pylist(), strict=True):
            counted[key] += number
    return counted
