"""Streams corpus files into tables of pairs and rejects; a broken line costs only itself."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.corpus.rows import RejectedRowError, parse_row
from trace_ray.errors import UserError
from trace_ray.pairs import PAIR_SCHEMA, RejectReason, Split, hash_fraction, pair_id
from trace_ray.storage import Location

READ_SCHEMA = pa.schema([*PAIR_SCHEMA, ("reason", pa.string()), ("detail", pa.string())])
"""A pair, or a refused row: then ``reason`` is set and all but row and source is null."""

ROWS_PER_FILE = 1 << 40
"""A row's number is file index x this + line: unique, and it needs no count of the files before."""

_DETAIL_CHARACTERS = 200


@dataclass(frozen=True)
class Source:
    """One file of the corpus.

    Args:
        place: where; index: its place in the corpus; split: ``test`` for held-out files, else decided by ``holdout``.
    """

    place: Location
    index: int
    split: str
    holdout: float
    form: str


def read_source(source: Source, rows: int, limit: int = 0) -> Iterator[pa.Table]:
    """Yields tables of READ_SCHEMA with at most ``rows`` rows, in file order, ``limit`` rows in all (0 = no limit)."""
    block: list[dict[str, Any]] = []
    for line, raw in enumerate(_raw_rows(source.place)):
        if limit and line >= limit:
            break
        block.append(_read_row(raw, source, source.index * ROWS_PER_FILE + line))
        if len(block) == rows:
            yield pa.Table.from_pylist(block, schema=READ_SCHEMA)
            block = []
    if block:
        yield pa.Table.from_pylist(block, schema=READ_SCHEMA)


def read_sources(sources: Sequence[Source], rows: int, limit: int) -> Iterator[pa.Table]:
    """Yields the tables of several files in order, ``limit`` rows over all of them together."""
    left = limit
    for source in sources:
        for table in read_source(source, rows, left):
            left -= table.num_rows
            yield table
        if left <= 0:
            return


def count_rows(place: Location) -> int:
    """Returns the number of rows of one file, without parsing them: what triage must account for."""
    if place.path.endswith(".parquet"):
        return int(pq.read_metadata(place.path, filesystem=place.fs).num_rows)
    return sum(1 for _ in _raw_rows(place))


def _raw_rows(place: Location) -> Iterator[bytes | dict[str, Any]]:
    try:
        if place.path.endswith(".parquet"):
            with pq.ParquetFile(place.path, filesystem=place.fs) as file:
                for batch in file.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
        else:
            with place.fs.open_input_stream(place.path, compression="detect") as stream:
                yield from (line for line in io.BufferedReader(stream, 1 << 20) if line.strip())
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            "corpus.paths", place.uri, f"cannot be read to its end: {' '.join(str(error).split())[:200]}"
        ) from None


def _read_row(raw: bytes | dict[str, Any], source: Source, number: int) -> dict[str, Any]:
    try:
        values = _decoded(raw) if isinstance(raw, bytes) else raw
        pair = parse_row(values, source.form)
    except RejectedRowError as error:
        detail = error.detail[:_DETAIL_CHARACTERS]
        return {"row": number, "source": source.place.name, "reason": error.reason.value, "detail": detail}
    prompt_key = json.dumps([[turn["role"], turn["content"]] for turn in pair.prompt], ensure_ascii=False)
    held_out = source.split == Split.TEST or hash_fraction([prompt_key], 0)[0] < source.holdout
    named = values.get("source") if isinstance(values, dict) else None
    return {
        "row": number,
        "pair_id": pair_id(pair.prompt, pair.chosen, pair.rejected),
        "source": named if isinstance(named, str) else source.place.name,
        "split": Split.TEST.value if held_out else Split.TRAIN.value,
        "prompt": list(pair.prompt),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise RejectedRowError(RejectReason.WRONG_ENCODING, repr(line[:80])) from None
    except ValueError:
        raise RejectedRowError(RejectReason.BROKEN_JSON, line[:80].decode("utf-8", "replace")) from None
