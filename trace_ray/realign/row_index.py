"""What is known of each row that is trained on without reading it: category and lengths, 17 bytes a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import ObjectiveConfig
from trace_ray.pairs import RESPONSE_NAMES, TRAINED

NAMES = tuple(sorted(name.value for name in TRAINED))
"""What a category's code stands for."""

Lengths = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RowIndex:
    """Of R rows, in order.

    Args:
        code: places in NAMES, shape (R,); prompt: its tokens, shape (R,).
        tokens: of each response, 0 where a row has none, shape (R,).
        read: rows that there are, trained on or not; weighed: those of them whose category carries weights.
    """

    code: npt.NDArray[np.int8]
    prompt: Lengths
    tokens: Mapping[str, Lengths]
    read: int
    weighed: int

    def __len__(self) -> int:
        return len(self.code)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by category, of those that have any."""
        counted = np.bincount(self.code, minlength=len(NAMES)).tolist()
        return {name: count for name, count in zip(NAMES, counted, strict=True) if count}

    @classmethod
    def joined(cls, parts: Iterable[RowIndex]) -> RowIndex:
        """Returns the index of the parts' rows, one after another."""
        every = list(parts)
        return cls(
            np.concatenate([np.empty(0, np.int8), *(part.code for part in every)]),
            np.concatenate([np.empty(0, np.int32), *(part.prompt for part in every)]),
            {n: np.concatenate([np.empty(0, np.int32), *(part.tokens[n] for part in every)]) for n in RESPONSE_NAMES},
            sum(part.read for part in every),
            sum(part.weighed for part in every),
        )


def trained_rows(table: pa.Table, objective: ObjectiveConfig) -> tuple[pa.Table, RowIndex]:
    """Returns the rows of weight above 0 whose term is not ``skip``, and their index.

    A pair of weight 0 has no gradient: counted, not run.
    """
    kept = [name for name in NAMES if objective.terms(name)]
    category = table["category"]
    trained = table.filter(
        pc.and_(pc.greater(table["weight"], 0), pc.is_in(category, value_set=pa.array(kept, pa.string())))
    )
    code = pc.index_in(trained["category"], value_set=pa.array(NAMES)).to_numpy().astype(np.int8)
    tokens = {name: _lengths(trained, f"{name}_ids") for name in RESPONSE_NAMES}
    weighed = pc.sum(pc.is_in(category, value_set=pa.array(objective.weighed, pa.string()))).as_py() or 0
    return trained, RowIndex(code, _lengths(trained, "prompt_ids"), tokens, table.num_rows, weighed)


def _lengths(table: pa.Table, name: str) -> Lengths:
    if name not in table.column_names:
        return np.zeros(table.num_rows, np.int32)
    found: Lengths = pc.list_value_length(table[name]).fill_null(0).to_numpy().astype(np.int32)
    return found
