"""Rows of parquet and Arrow files, a bounded number of bytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.corpus.kinds import Form
from trace_ray.corpus.rows import RejectedRowError
from trace_ray.pairs import RejectReason
from trace_ray.storage.location import Location

_BATCH_ROWS = 1024
_BATCH_BYTES = 2 << 20


def columnar_rows(
    place: Location, form: Form, groups: tuple[int, int] | None = None
) -> Iterator[dict[str, Any] | RejectedRowError]:
    """Yields each row as a dict, or why it is none: text that is no UTF-8, a value that Python has no place for.

    Args:
        groups: of a parquet file, the row groups start..stop; None = all.
    """
    for batch in _batches(place, form, groups):
        rows = _rows_at_once(batch.nbytes, batch.num_rows)
        for start in range(0, batch.num_rows, rows):
            yield from _dicts(batch.slice(start, rows))


def count_columnar(place: Location, form: Form) -> int:
    """Returns the number of rows, from the footer where there is one."""
    if form is Form.PARQUET:
        return int(pq.read_metadata(place.path, filesystem=place.fs).num_rows)
    return sum(batch.num_rows for batch in _batches(place, form))


def parquet_groups(place: Location) -> list[tuple[int, int]]:
    """Returns (rows, bytes of their columns) of each row group, from the footer."""
    footer = pq.read_metadata(place.path, filesystem=place.fs)
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    return [(int(group.num_rows), int(group.total_byte_size)) for group in groups]


def _rows_at_once(size: int, rows: int) -> int:
    return min(_BATCH_ROWS, max(1, _BATCH_BYTES * rows // max(1, size)))


def _dicts(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RejectedRowError]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows > 1:
            for i in range(batch.num_rows):
                yield from _dicts(batch.slice(i, 1))
            return
        text = isinstance(error, UnicodeDecodeError)
        yield RejectedRowError(RejectReason.WRONG_ENCODING if text else RejectReason.NOT_A_DIALOGUE, str(error)[:80])


def _batches(place: Location, form: Form, groups: tuple[int, int] | None = None) -> Iterator[pa.RecordBatch]:
    if form is Form.PARQUET:
        with pq.ParquetFile(place.path, filesystem=place.fs) as file:
            wanted = range(*groups) if groups else range(file.metadata.num_row_groups)
            facts = [file.metadata.row_group(i) for i in wanted]
            rows = min((_rows_at_once(group.total_byte_size, group.num_rows) for group in facts), default=1)
            yield from file.iter_batches(batch_size=rows, row_groups=list(wanted))
        return
    with place.fs.open_input_stream(place.path, compression=None) as stream:
        magic = bytes(stream.read(6))
    # A batch may be the whole file: mapped, what is not read of it takes no memory.
    with pa.memory_map(place.path) if place.is_local else place.fs.open_input_file(place.path) as file:
        if magic == b"ARROW1":
            with pa.ipc.open_file(file) as reader:
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i)
        else:
            with pa.ipc.open_stream(file) as reader:
                yield from reader
