"""The trained rows of scored/, held as Arrow and turned into Python a micro-batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import ObjectiveConfig
from trace_ray.errors import UserError
from trace_ray.pairs import RESPONSE_NAMES
from trace_ray.realign.order import Indices, category_counts
from trace_ray.runs.artifacts import Artifact

if TYPE_CHECKING:
    from trace_ray.model.sharing import Pays

COLUMNS = [
    "pair_id",
    "category",
    "weight",
    "prompt_ids",
    *(f"{name}_{kind}" for name in RESPONSE_NAMES for kind in ("ids", "ref_logp")),
]


class TrainingRows:
    """Rows with a weight above 0 whose term is not ``skip``; a pair of weight 0 has no gradient: counted, not run.

    Args:
        table: scored rows with COLUMNS at least; where: they come from, for a message.
        objective: the categories' terms.
        top_k: stored reference distributions by pair (``pair_id``, ``top_k_ids``, ``top_k_log_probs``), or None.
    Raises: UserError where none is left.
    """

    def __init__(
        self, table: pa.Table, objective: ObjectiveConfig, top_k: pa.Table | None = None, where: str = "scored/"
    ) -> None:
        table = table.select(COLUMNS)
        every = category_counts(table["category"].to_pylist())
        self.weighed = sum(every.get(name, 0) for name in objective.weighed)
        kept = [name for name in every if objective.terms(name)]
        trained = pc.and_(pc.greater(table["weight"], 0), pc.is_in(table["category"], value_set=pa.array(kept)))
        self.table: pa.Table = table.filter(trained).combine_chunks()
        self.category: tuple[str, ...] = tuple(self.table["category"].to_pylist())
        self.counts = category_counts(self.category)
        if not self.category:
            seen, remedy = (
                f"{table.num_rows} pairs, none to train on",
                "no weight is above 0; try objective.weights=uniform",
            )
            raise UserError(where, seen, remedy)
        self.objective = objective
        prompt = pc.list_value_length(self.table["prompt_ids"]).to_numpy()
        tokens = {n: pc.list_value_length(self.table[f"{n}_ids"]).fill_null(0).to_numpy() for n in RESPONSE_NAMES}
        self._names = {name: objective.sequences(name) for name in self.counts}
        self._prompt, self._tokens = prompt, tokens
        self.shared = [False] * len(self.category)
        """Of each row whether its responses share their prompt."""
        self._top_k = top_k
        self._top_k_row = {pair_id: i for i, pair_id in enumerate(top_k["pair_id"].to_pylist())} if top_k else {}

    @classmethod
    def read(cls, scored: Artifact, objective: ObjectiveConfig, top_k: pa.Table | None = None) -> TrainingRows:
        """Returns the rows of a finished scored/."""
        return cls(scored.read(COLUMNS), objective, top_k, scored.place.uri)

    def share_prompts(self, pays: Pays) -> None:
        """Has the responses of a row, none of which is compared with the reference, share their prompt where that pays.

        ``pays`` is a model's ``sharing.sharing_rule``.
        """
        self.shared = [
            not any(self.anchored(i)) and pays(int(self._prompt[i]), self._responses(i))
            for i in range(len(self.category))
        ]

    def _responses(self, index: int) -> list[int]:
        return [int(self._tokens[name][index]) for name in self._names[self.category[index]]]

    def lengths(self, index: int) -> list[int]:
        """Returns the tokens of what a row's term runs together: all of it where a prompt is shared, else each sequence."""
        prompt, responses = int(self._prompt[index]), self._responses(index)
        return [prompt + sum(responses)] if self.shared[index] else [prompt + n for n in responses]

    def anchored(self, index: int) -> list[bool]:
        """Returns which of these are compared with the reference by KL."""
        category = self.category[index]
        compared = self.objective.compared(category)
        return [False] if self.shared[index] else [name in compared for name in self._names[category]]

    def longest(self) -> tuple[int, ...]:
        """Returns the tokens of each row's longest sequence."""
        return tuple(int(self._prompt[i]) + max(self._responses(i)) for i in range(len(self.category)))

    def pair_ids(self, indices: Indices) -> list[str]:
        return list(self.table["pair_id"].take(pa.array(indices)).to_pylist())

    def take(self, indices: Indices) -> list[dict[str, Any]]:
        """Returns the rows at ``indices``."""
        rows: list[dict[str, Any]] = self.table.take(pa.array(np.asarray(indices, np.int64))).to_pylist()
        if self._top_k is not None:
            return [row | self._stored(row["pair_id"]) for row in rows]
        return rows

    def _stored(self, pair_id: str) -> dict[str, Any]:
        at = self._top_k_row.get(pair_id)
        if self._top_k is None or at is None:
            return {}
        k = self._top_k["k"][at].as_py()
        return {n: self._top_k[n][at].values.to_numpy().reshape(-1, k) for n in ("top_k_ids", "top_k_log_probs")}
