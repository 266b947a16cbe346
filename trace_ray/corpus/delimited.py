"""Rows of a CSV or TSV file with a header: quoted as RFC 4180 has it, line breaks in fields included."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from trace_ray.corpus.rows import RejectedRowError
from trace_ray.pairs import RejectReason

_LONGEST_FIELD = 256 << 20


class NotDelimitedError(ValueError):
    """The file's frame is broken: which row a field belongs to cannot be told."""


def delimited_rows(lines: TextIO, delimiter: str) -> Iterator[dict[str, str] | RejectedRowError]:
    """Yields each row as {column: text}, or why it is none: it has more or fewer fields than the header.

    Args:
        lines: opened with ``newline=""``.
    Raises: NotDelimitedError for a header that names a column twice, or a quote that is not closed.
    """
    csv.field_size_limit(_LONGEST_FIELD)  # the module's own limit, 128 KiB, is less than a long dialogue
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        before = reader.line_num
        try:
            fields = next(reader, None)
        except csv.Error as error:
            where = f"lines {before + 1} to {reader.line_num}: {error}"
            if not header or reader.line_num > before + 1:  # what the quote swallowed may be any number of rows
                raise NotDelimitedError(f"{where}: is a quote missing, or one inside a field not doubled?") from None
            yield RejectedRowError(RejectReason.BROKEN_CSV, where)
            continue
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if not header:
            header = _header(fields)
        elif len(fields) == len(header):
            yield dict(zip(header, fields, strict=True))
        else:
            seen = f"{len(fields)} fields where the header has {len(header)}: {str(fields)[:80]}"
            yield RejectedRowError(RejectReason.BROKEN_CSV, seen)


def _header(fields: list[str]) -> list[str]:
    names = [name.strip() for name in fields]
    twice = [name for name, number in Counter(names).items() if number > 1 and name]
    if twice:
        raise NotDelimitedError(f"the header names {twice[0]} twice")
    return names
