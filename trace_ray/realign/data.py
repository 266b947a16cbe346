"""The trained rows of scored/: known by an index, read a micro-batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from trace_ray.config import ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.realign.node_copy import columns_read, node_copy
from trace_ray.realign.order import Indices
from trace_ray.realign.row_index import NAMES, Lengths, RowIndex, trained_rows
from trace_ray.runs.artifacts import Artifact
from trace_ray.storage.location import Location

if TYPE_CHECKING:
    from trace_ray.model.sharing import Pays

DISTRIBUTIONS = ("top_k_ids", "top_k_log_probs")
HIDDEN = "reference_hidden"


class Rows(Protocol):
    """Where rows lie: in memory, or in a node's copy."""

    @property
    def index(self) -> RowIndex: ...

    def take(self, indices: Indices) -> pa.Table: ...


class HeldRows:
    """Rows in memory: what is trained on of a table of scored rows."""

    def __init__(self, table: pa.Table, objective: ObjectiveConfig) -> None:
        rows, self.index = trained_rows(table.select(columns_read(objective)), objective)
        self.table = rows.combine_chunks()

    def take(self, indices: Indices) -> pa.Table:
        return self.table.take(pa.array(indices))


class TrainingRows:
    """Rows with a weight above 0 whose term is not ``skip``, as training asks for them.

    Args:
        rows: where they lie; objective: the categories' terms.
        where: they come from, for a message.
    Raises: UserError where there is none.
    """

    def __init__(self, rows: Rows, objective: ObjectiveConfig, where: str = "scored/") -> None:
        self.rows, self.index, self.objective = rows, rows.index, objective
        if not len(self.index):
            seen = f"{self.index.read} pairs, none to train on"
            raise UserError(where, seen, "no weight is above 0; try objective.weights=uniform")
        self.counts, self.weighed = self.index.counts, self.index.weighed
        self._names = {name: objective.sequences(name) for name in self.counts}
        self._pays: Pays | None = None
        self.flat = False

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, table: pa.Table, objective: ObjectiveConfig) -> TrainingRows:
        """Returns the rows of a table in SCORED_SCHEMA, held in memory."""
        return cls(HeldRows(table, objective), objective)

    @classmethod
    def read(cls, scored: Artifact, objective: ObjectiveConfig, reference: Location | None = None) -> TrainingRows:
        """Returns the rows of a finished scored/, from this node's copy.

        Args:
            reference: a folder of what is stored of the reference, which then comes with the rows.
        """
        return cls(node_copy(scored, objective, reference), objective, scored.place.uri)

    def share_prompts(self, pays: Pays, *, flat: bool = False) -> None:
        """Has the responses of a row, none of which is compared with the reference, share their prompt where that pays.

        Args:
            pays: a model's ``sharing.sharing_rule``; flat: whether it runs flat rows.
        """
        self._pays, self.flat = pays, flat

    def shared(self, index: int) -> bool:
        """Returns whether the responses of a row share their prompt."""
        if self._pays is None or any(self._compared(index)):
            return False
        return bool(self._pays(int(self.index.prompt[index]), self._responses(index)))

    def category(self, index: int) -> str:
        return NAMES[int(self.index.code[index])]

    def _responses(self, index: int) -> list[int]:
        return [int(self.index.tokens[name][index]) for name in self._names[self.category(index)]]

    def _compared(self, index: int) -> list[bool]:
        category = self.category(index)
        return [name in self.objective.compared(category) for name in self._names[category]]

    def lengths(self, index: int) -> list[int]:
        """Returns the tokens of what a row's term runs together: all of it where a prompt is shared, else each sequence."""
        prompt, responses = int(self.index.prompt[index]), self._responses(index)
        return [prompt + sum(responses)] if self.shared(index) else [prompt + n for n in responses]

    def anchored(self, index: int) -> list[bool]:
        """Returns which of these are compared with the reference by KL."""
        return [False] if self.shared(index) else self._compared(index)

    def longest(self) -> Lengths:
        """Returns the tokens of each row's longest sequence, shape (R,)."""
        found = np.zeros(len(self.index), np.int32)
        for name, responses in self._names.items():
            mine = self.index.code == NAMES.index(name)
            found[mine] = np.max([self.index.tokens[response][mine] for response in responses], axis=0)
        return found + self.index.prompt

    def most_at_once(self) -> int:
        """Returns the tokens of the row that runs most of them together: the largest sum of ``lengths``."""
        most = 0
        for category, names in self._names.items():
            mine = self.index.code == NAMES.index(category)
            prompt = self.index.prompt[mine].astype(np.int64)
            responses = [self.index.tokens[name][mine].astype(np.int64) for name in names]
            pays = None if self.objective.compared(category) else self._pays
            shared = pays(prompt, responses) if pays else False
            most = max(most, int((np.where(shared, 1, len(names)) * prompt + sum(responses)).max(initial=0)))
        return most

    def pair_ids(self, indices: Indices) -> list[str]:
        return list(self.rows.take(np.asarray(indices, np.int64))["pair_id"].to_pylist())

    def take(self, indices: Indices) -> list[dict[str, Any]]:
        """Returns the rows at ``indices``, each with what is stored of the reference for it, tokens x k or bytes."""
        table = self.rows.take(np.asarray(indices, np.int64))
        stored = [name for name in (*DISTRIBUTIONS, HIDDEN) if name in table.column_names]
        rows: list[dict[str, Any]] = table.drop_columns(stored).to_pylist()
        for name in stored:
            for row, values in zip(rows, table[name], strict=True):
                if values.is_valid and name == HIDDEN:
                    row[name] = np.frombuffer(values.as_buffer(), np.uint8)
                elif values.is_valid:
                    row[name] = values.values.to_numpy().reshape(-1, row["k"])
        return rows
