"""The trained rows of scored/, held as Arrow and turned into Python a micro-batch at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.artifacts import Artifact
from trace_ray.pairs import CONFLICTS, RESPONSE_NAMES
from trace_ray.realign.order import PADDING, Indices, category_counts

COLUMNS = [
    "pair_id",
    "category",
    "weight",
    "prompt_ids",
    *(f"{name}_{kind}" for name in RESPONSE_NAMES for kind in ("ids", "ref_logp")),
]


class TrainingRows:
    """Rows with a weight above 0; a conflict of weight 0 has no gradient and is counted, not run.

    Args:
        scored: the finished scored/ artefact.
    """

    def __init__(self, scored: Artifact) -> None:
        table = scored.read(COLUMNS)
        weight = table["weight"].to_numpy()
        self.table: pa.Table = table.filter(pa.array(weight > 0))
        every = category_counts(table["category"].to_pylist())
        self.conflicts = sum(every.get(name, 0) for name in CONFLICTS)
        self.category: tuple[str, ...] = tuple(self.table["category"].to_pylist())
        self.counts = category_counts(self.category)

    def take(self, indices: Indices) -> list[dict[str, Any]]:
        """Returns the rows at ``indices``, padding left out."""
        return list(self.table.take(pa.array(indices[indices != PADDING].astype(np.int64))).to_pylist())
