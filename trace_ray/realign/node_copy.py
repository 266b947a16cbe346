"""The rows that are trained on, on this node's disk: written once by the first of its workers, mapped by all of them.

An Arrow file is read where it lies; parquet would have to be decoded whole for a row. So a worker holds the index in memory
and of the rows those of its micro-batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import ObjectiveConfig
from trace_ray.pairs import RESPONSE_NAMES
from trace_ray.realign.row_index import NAMES, RowIndex, trained_rows
from trace_ray.runs.artifacts import Artifact
from trace_ray.runs.weights import WEIGHTS, read_part
from trace_ray.storage.at_once import read_ahead
from trace_ray.storage.location import Location
from trace_ray.storage.staging import made_once

ROWS, FACTS = "rows.arrow", "facts.json"
AHEAD = 8
"""Parts that are read while one is written."""


class NodeCopy:
    """The rows of a finished scored/, in order.

    Args:
        folder: as ``node_copy`` makes it.
    """

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / FACTS).read_text())
        self.file = str(folder / ROWS)
        self.starts = np.cumsum([0, *facts["batches"]])
        lengths = {name: np.load(folder / f"{name}.npy") for name in ("prompt", *RESPONSE_NAMES)}
        self.index = RowIndex(
            np.load(folder / "code.npy"), lengths.pop("prompt"), lengths, facts["read"], facts["weighed"]
        )

    def take(self, indices: npt.NDArray[np.int64]) -> pa.Table:
        """Returns the rows at ``indices``, in that order.

        The file is mapped for as long as that takes, or all pages ever read would stay with the process.
        """
        batch = np.searchsorted(self.starts, indices, side="right") - 1
        order = np.argsort(batch, kind="stable")
        with pa.memory_map(self.file) as source:
            reader = pa.ipc.open_file(source)
            found = [
                reader.get_batch(int(number)).take(pa.array(indices[batch == number] - self.starts[number]))
                for number in np.unique(batch)
            ]
            return pa.Table.from_batches(found, reader.schema).take(pa.array(np.argsort(order, kind="stable")))


def node_copy(scored: Artifact, objective: ObjectiveConfig, reference: Location | None) -> NodeCopy:
    """Returns this node's copy of what is trained on of a finished scored/, made by the first process that asks.

    Args:
        reference: what is stored of the reference, in TOP_K_SCHEMA or HIDDEN_SCHEMA, a file a part of scored/; or None.
    """
    manifest, columns = scored.manifest(), columns_read(objective)
    facts = [
        scored.place.uri,
        scored.place.entries(),
        manifest.get(WEIGHTS),
        columns,
        [bool(objective.terms(name)) for name in NAMES],
    ]
    facts += [objective.weighed, [reference.uri, reference.entries()] if reference else []]

    def read(name: str) -> tuple[pa.Table, RowIndex]:
        table, index = trained_rows(read_part(scored.place / name, columns, manifest.get(WEIGHTS)), objective)
        return (_with_reference(table, (reference / name).read_parquet()) if reference else table), index

    ahead = 1 if reference else AHEAD  # what is stored of the reference is many times the rows
    key = json.dumps(["rows", *facts])
    return NodeCopy(made_once(key, lambda folder: _write(folder, manifest["parts"], read, ahead)))


def columns_read(objective: ObjectiveConfig) -> list[str]:
    """Returns the columns of scored/ that training reads."""
    read = {response for name in NAMES for response in objective.sequences(name)}
    kinds = [f"{name}_{kind}" for name in RESPONSE_NAMES if name in read for kind in ("ids", "ref_logp")]
    return ["pair_id", "category", "weight", "prompt_ids", *kinds]


def _write(folder: Path, names: Sequence[str], read: Callable[[str], tuple[pa.Table, RowIndex]], ahead: int) -> None:
    batches: list[int] = []
    indices: list[RowIndex] = []
    writer: pa.RecordBatchFileWriter | None = None
    try:
        for table, index in read_ahead(read, names, ahead):
            writer = writer or pa.ipc.new_file(str(folder / ROWS), table.schema)
            for batch in table.to_batches():
                writer.write_batch(batch)
                batches.append(batch.num_rows)
            indices.append(index)
    finally:
        if writer is not None:
            writer.close()
    whole = RowIndex.joined(indices)
    np.save(folder / "code.npy", whole.code)
    for name, lengths in {"prompt": whole.prompt, **whole.tokens}.items():
        np.save(folder / f"{name}.npy", lengths)
    (folder / FACTS).write_text(json.dumps({"batches": batches, "read": whole.read, "weighed": whole.weighed}))


def _with_reference(table: pa.Table, stored: pa.Table) -> pa.Table:
    """Returns the rows with what is stored of the reference for them, null where nothing is."""
    at = pc.index_in(table["pair_id"], value_set=stored["pair_id"].combine_chunks())
    for field in [field for field in stored.schema if field.name != "pair_id"]:
        table = table.append_column(field, stored[field.name].combine_chunks().take(at))
    return table
