"""Cuts a JSON array, or JSON objects over several lines, into values without parsing or holding the whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[\[\]{},]', re.DOTALL)
"""A string, its end in group 1 where the buffer holds it, or what opens, closes or parts values."""

_OPENS, _CLOSES = b"[{", b"]}"
_BLOCK = 1 << 20
_LONGEST = 256 << 20
"""Bytes that a value may have: where a quote is missing, everything after it would be one."""


class NotJsonError(ValueError):
    """The values' frame is broken: nothing after that place can be told apart."""


def json_values(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the elements of an array, or objects that follow one another, as they stand in a UTF-8 stream, unchecked.

    Holds one value and a block at a time.
    Raises: NotJsonError where the array or an object is not closed, or something follows the array.
    """
    marks = _Marks(stream)
    first = next(iter(marks), None)
    if first is None:
        return
    yield from _elements(marks) if first == _OPENS[0] else _objects(marks)
    if marks.left().strip():
        raise NotJsonError(f"something follows after value {marks.taken}")


def _elements(marks: _Marks) -> Iterator[bytes]:
    marks.skip()
    depth = 1
    for mark in marks:
        if mark in _OPENS:
            depth += 1
        elif mark in _CLOSES:
            depth -= 1
            if depth == 0:
                if marks.before().strip():
                    yield marks.take()
                marks.skip()
                return
        elif depth == 1:
            yield marks.take()
    raise NotJsonError(f"the array is not closed after value {marks.taken}: cut short, or is a quote missing?")


def _objects(marks: _Marks) -> Iterator[bytes]:
    depth = 1
    for mark in marks:
        depth += (mark in _OPENS) - (mark in _CLOSES)
        if mark in _CLOSES and depth == 0:
            yield marks.take(closing=True)
    if depth:
        raise NotJsonError(f"an object is not closed after value {marks.taken}: was the file cut short?")


class _Marks:
    """The marks ``[ ] { } ,`` outside strings, one after the other, and the text since the last value taken."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._text = b""
        self._start = self._mark = self._end = 0
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        """Goes on after the last mark, however often it is asked for."""
        while True:
            for token in _TOKEN.finditer(self._text, self._end):
                mark = self._text[token.start()]
                if mark != 0x22:
                    self._mark, self._end = token.span()
                    yield mark
                elif token[1]:
                    self._end = token.end()
                else:  # a string whose end is not read yet
                    break
            if not self._more():
                return

    def before(self) -> bytes:
        """Returns what stands before the mark."""
        return self._text[self._start : self._mark]

    def take(self, *, closing: bool = False) -> bytes:
        """Returns what stands before the mark, the mark included if it closes the value, and goes behind the mark."""
        value = self._text[self._start : self._end if closing else self._mark].strip()
        self.skip()
        self.taken += 1
        return value

    def skip(self) -> None:
        self._start = self._end

    def left(self) -> bytes:
        """Returns the beginning of what follows the last value, blank only where nothing does."""
        while not (rest := self._text[self._start :]).strip() and self._more():
            pass
        return rest

    def _more(self) -> bool:
        """Reads on. A value longer than a block may be searched from its last string again, so blocks grow with it."""
        kept = self._text[self._start :]
        if len(kept) > _LONGEST:
            raise NotJsonError(f"value {self.taken + 1} is longer than {_LONGEST >> 20} MiB: is a quote missing?")
        block = self._stream.read(max(_BLOCK, len(kept)))
        self._text = kept + block
        self._mark, self._end, self._start = self._mark - self._start, self._end - self._start, 0
        return bool(block)
