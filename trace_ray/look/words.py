"""What changed between two texts, word by word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

MOST_WORDS = 2000
"""Of one text: matching takes time that grows with the product of both lengths."""


@dataclass(frozen=True)
class Piece:
    """Some words in a row: ``kind`` is same, gone or new."""

    kind: str
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """Returns the texts as one: what both say, what only the first says, what only the second says.

    Longer texts than MOST_WORDS are told apart as a whole.

    >>> [(span.kind, span.text) for span in word_diff("Always refuse it.", "Explain it.")]
    [('gone', 'Always refuse'), ('new', 'Explain'), ('same', 'it.')]
    """
    return list(_pieces(before.split(), after.split()))


def _pieces(before: list[str], after: list[str]) -> Iterator[Piece]:
    if before != after and max(len(before), len(after)) > MOST_WORDS:
        yield from _spoken("gone", before)
        yield from _spoken("new", after)
        return
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from _spoken("same", before[i:j])
        else:
            yield from _spoken("gone", before[i:j])
            yield from _spoken("new", after[k:m])


def _spoken(kind: str, words: list[str]) -> Iterator[Piece]:
    if words:
        yield Piece(kind, " ".join(words))
