"""Readers of large files: the same rows wherever blocks end, and no more memory for more rows."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_ray.corpus import json_values as module
from trace_ray.corpus.delimited import delimited_rows
from trace_ray.corpus.json_values import NotJsonError, json_values

TEXT = st.text(alphabet=st.sampled_from('ab"\\[]{},:\n\r\t é\u2028\U0001f600'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


class Slowly(io.RawIOBase):
    """Gives at most ``step`` bytes a time, as a decompressor may."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step, self.at = data, step, 0

    def read(self, size: int = -1) -> bytes:
        piece = self.data[self.at : self.at + min(self.step, size)]
        self.at += len(piece)
        return piece


def cut(data: bytes, step: int) -> list[Any]:
    stream: Any = Slowly(data, step)
    return [json.loads(value) for value in json_values(stream)]


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, max_size=5), st.integers(1, 40), st.sampled_from([None, 0, 2]), st.booleans())
def test_an_array_is_cut_where_the_parser_would(values: list[Any], step: int, indent: int | None, ascii_: bool) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_).encode()
    assert cut(data, step) == values
    assert cut(b" \n" + data + b"\n ", step) == values


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=4), st.integers(1, 40))
def test_objects_over_several_lines_are_cut_too(values: list[Any], step: int) -> None:
    assert cut("\n".join(json.dumps(value, indent=2) for value in values).encode(), step) == values


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, max_size=4), st.data())
def test_an_array_cut_short_anywhere_is_told(values: list[Any], data: st.DataObject) -> None:
    whole = json.dumps(values).encode()
    short = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with pytest.raises(NotJsonError, match="not closed"):
        list(json_values(io.BytesIO(short)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]))
def test_a_csv_gives_back_what_was_written(rows: list[tuple[str, str, str]], delimiter: str, end: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt", "chosen", "rejected"])
    writer.writerows(rows)
    found = list(delimited_rows(io.StringIO(out.getvalue(), newline=""), delimiter))
    assert [tuple(row.values()) for row in found if isinstance(row, dict)] == rows
    assert len(found) == len(rows)


class Endless:
    """An array of ``rows`` rows that is never whole in memory."""

    row = json.dumps({"prompt": "p, " * 300, "chosen": "[" * 300, "rejected": "{" * 300}).encode() + b", "

    def __init__(self, rows: int) -> None:
        self.left, self.begun = rows, False

    def read(self, size: int) -> bytes:
        if not self.begun:
            self.begun = True
            return b"["
        number = min(self.left, size // len(self.row))
        self.left -= number
        if number == 0 and self.left == 0:
            self.left = -1
            return b"{}]"
        return self.row * max(0, number)


def peak(rows: int) -> int:
    tracemalloc.start()
    stream: Any = Endless(rows)
    assert sum(1 for _ in json_values(stream)) == rows + 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_an_array_takes_no_more_memory_for_more_rows() -> None:
    assert peak(40_000) < 1.1 * peak(4_000) < 16 << 20


def test_a_missing_quote_ends_the_search_and_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 4 << 20)
    stream = io.BytesIO(b'[{"a": 1}, {"b: 1}' + b", {}" * (4 << 20))
    with pytest.raises(NotJsonError, match="value 2 is longer than 4 MiB"):
        list(json_values(stream))
