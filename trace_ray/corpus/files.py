"""Raw rows of one file that somebody else wrote, whatever its kind, in constant memory."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from trace_ray.corpus.columnar import columnar_rows, count_columnar, parquet_groups
from trace_ray.corpus.delimited import NotDelimitedError, delimited_rows
from trace_ray.corpus.json_values import NotJsonError, json_values
from trace_ray.corpus.kinds import FileKind, Form, columnar_form, compression_of, text_kind
from trace_ray.corpus.rows import RejectedRowError
from trace_ray.errors import UserError
from trace_ray.storage.location import Location

RawRow = bytes | dict[str, Any] | RejectedRowError
"""JSON text in UTF-8, or a row's columns, or why there are none."""

_HEAD_BYTES = 262  # as far as a tar archive's mark
_SAMPLE_BYTES = 1 << 18
_BUFFER_BYTES = 1 << 20
_COLUMNAR = (Form.PARQUET, Form.ARROW)


def file_kind(place: Location, setting: str = "corpus.paths") -> FileKind:
    """Returns a file's kind, from its beginning. Raises: UserError, naming ``setting``, where that cannot be read."""
    # Opened for reads here and there: of an object store's file a few small ranges are fetched, no read-ahead.
    with _readable(place, setting), place.fs.open_input_file(place.path) as file:
        head = bytes(file.read(_HEAD_BYTES))
        compression = compression_of(head)
        if not compression and (form := columnar_form(head, place.name)):
            return FileKind(form)
        file.seek(0)
        sample = _unpacked(file, compression, _SAMPLE_BYTES).read(_SAMPLE_BYTES)
        return text_kind(sample, place.name, compression)


def raw_rows(place: Location, setting: str = "corpus.paths", groups: tuple[int, int] | None = None) -> Iterator[RawRow]:
    """Yields what stands for one row each: a line that is not blank, an array's element, a CSV's row, a columnar row.

    Args:
        groups: of a parquet file, the row groups start..stop; None = all.
    Raises: UserError, naming ``setting``, where the file holds no rows at all or cannot be read to its end.
    """
    kind = readable_kind(place, setting)
    with _readable(place, setting):
        if kind.form in _COLUMNAR:
            yield from columnar_rows(place, kind.form, groups)
            return
        with utf8(place, kind) as stream:
            if kind.form is Form.DELIMITED:
                text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
                yield from delimited_rows(text, kind.delimiter)
            else:
                yield from text_lines(stream, kind) if kind.form is Form.LINES else json_values(stream)


def lines_between(place: Location, start: int, stop: int, setting: str = "corpus.paths") -> Iterator[bytes]:
    r"""Yields the lines that are not blank and begin within bytes start..stop of a plain file, whose lines end with \n."""
    with _readable(place, setting), place.open() as stream:
        at = stream.seek(max(0, start - 1))
        at += len(stream.readline()) if start else 0  # what begins before belongs to the range before
        for line in stream:
            if at >= stop:
                return
            at += len(line)
            if not line.isspace():
                yield line


def plain_lines(place: Location, setting: str) -> Iterator[str]:
    """Yields the lines of a file of text that are not blank. Raises: UserError where one is not in its encoding."""
    kind = file_kind(place, setting)
    with _readable(place, setting), utf8(place, kind) as stream:
        for line in text_lines(stream, kind):
            yield line.decode("utf-8").strip("\r\n")


def count_rows(place: Location, setting: str = "corpus.paths") -> int:
    """Returns how many rows ``raw_rows`` yields, without parsing them: what triage must account for."""
    kind = readable_kind(place, setting)
    if kind.form not in _COLUMNAR:
        return sum(1 for _ in raw_rows(place, setting))
    with _readable(place, setting):
        return count_columnar(place, kind.form)


def row_groups(place: Location, setting: str = "corpus.paths") -> list[tuple[int, int]]:
    """Returns (rows, bytes of their columns) of a parquet file's row groups. Raises: UserError for one that is damaged."""
    with _readable(place, setting):
        return parquet_groups(place)


def readable_kind(place: Location, setting: str) -> FileKind:
    """Returns a file's kind. Raises: UserError where no row can be read of such a file."""
    kind = file_kind(place, setting)
    if kind.problem:
        raise UserError(setting, place.uri, kind.problem)
    return kind


@contextmanager
def utf8(place: Location, kind: FileKind) -> Iterator[BinaryIO]:
    """Gives a file of text, decompressed, as UTF-8 without a byte-order mark."""
    with place.fs.open_input_stream(place.path, compression=None) as raw:
        stream = _unpacked(raw, kind.compression, _BUFFER_BYTES)
        if kind.encoding == "utf-8-sig":
            stream.read(3)
        utf8_already = kind.encoding in ("utf-8", "utf-8-sig")
        yield stream if utf8_already else io.BufferedReader(_Recoded(stream, kind.encoding), _BUFFER_BYTES)


def text_lines(stream: BinaryIO, kind: FileKind) -> Iterator[bytes]:
    """Yields the lines that are not blank."""
    for line in stream if kind.line_end == "\n" else _lines_by(b"\r", stream):
        if not line.isspace():
            yield line


def _lines_by(end: bytes, stream: BinaryIO) -> Iterator[bytes]:
    rest: list[bytes] = []
    while block := stream.read(_BUFFER_BYTES):
        first, *others = block.split(end)
        rest.append(first)
        if others:
            yield b"".join(rest) + end
            yield from (line + end for line in others[:-1])
            rest = others[-1:]
    if last := b"".join(rest):
        yield last


def _unpacked(file: Any, compression: str, buffer: int) -> io.BufferedReader:
    if compression == "xz":
        return io.BufferedReader(lzma.LZMAFile(file), buffer)
    return io.BufferedReader(pa.CompressedInputStream(file, compression) if compression else file, buffer)


class _Recoded(io.RawIOBase):
    """Text of another encoding as UTF-8. Half a surrogate pair comes as bytes that are none: its row alone is refused."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding, errors="surrogatepass", newline="")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._text.read(len(buffer) // 4).encode("utf-8", "surrogatepass")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _readable(place: Location, setting: str) -> Iterator[None]:
    try:
        yield
    except (NotJsonError, NotDelimitedError) as error:
        raise UserError(setting, place.uri, str(error)) from None
    except (OSError, pa.ArrowException, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        seen = " ".join(str(error).split())[:200]
        raise UserError(setting, place.uri, f"cannot be read to its end: {seen}") from None
