"""What every format shares: a row, the pair or the reason it becomes, and the entry that a format is."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trace_ray.config import CorpusConfig
from trace_ray.pairs import Message, RejectReason

Row = Mapping[str, Any]

_SHOWN_COLUMNS = 12
_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxlong, _short.maxother = 3, 80, 40, 80


class RejectedRowError(ValueError):
    """A row, or one pair of it, that is no preference pair, with the reason."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class RawPair(NamedTuple):
    """A pair before it has an id: prompt as messages, the last of them the user's."""

    prompt: list[Message]
    chosen: str
    rejected: str


Read = Callable[[Row, CorpusConfig], list[RawPair]]
"""Reads one row to one pair or, of a ranked set, to several. Raises: RejectedRowError, and nothing else for any row."""


@dataclass(frozen=True)
class Format:
    """One format: its name, the columns that tell it, and how a row is read.

    Args:
        name: as ``corpus.format`` has it.
        columns: a row that has all of them (no null) is of this format; ``a|b`` = one of the two.
        read: the reader.
    """

    name: str
    columns: tuple[str, ...]
    read: Read

    def fits(self, columns: frozenset[str]) -> bool:
        """Returns whether a row with these columns is of this format."""
        return all(any(name in columns for name in needed.split("|")) for needed in self.columns)


def columns_of(row: Row) -> tuple[str, ...]:
    """Returns the names of a row's columns, those that are not null."""
    names = tuple(row)
    return names if None not in row.values() else tuple([name for name in names if row[name] is not None])


def shown(value: Any) -> str:
    """Returns the start of a value for a message, however large or deep it is: ``repr`` alone would end in an exception."""
    return "null" if value is None else _short.repr(value)[:100]


def needed(row: Row, name: str) -> Any:
    """Returns a column's value. Raises: RejectedRowError, naming the columns that there are, where it is null or absent."""
    value = row.get(name)
    if value is None:
        raise missing(row, f"no {name}")
    return value


def missing(row: Row, said: str) -> RejectedRowError:
    """Returns the refusal of a row that lacks something, with the columns that it has."""
    names = [str(name) for name in columns_of(row)]
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    has = f"{', '.join(names[:_SHOWN_COLUMNS])}{more}" if names else "no column with a value"
    return RejectedRowError(RejectReason.MISSING_FIELD, f"{said}; the row has: {has}")


def no_preference(said: str) -> RejectedRowError:
    """Returns the refusal of a row whose labels prefer neither answer."""
    return RejectedRowError(RejectReason.NO_PREFERENCE, said)


def no_dialogue(said: str) -> RejectedRowError:
    """Returns the refusal of a value that is no dialogue, or of dialogues that do not fit together."""
    return RejectedRowError(RejectReason.NOT_A_DIALOGUE, said)


def unsupported(said: str) -> RejectedRowError:
    """Returns the refusal of a row that holds what a pair of ours cannot keep."""
    return RejectedRowError(RejectReason.UNSUPPORTED_TURN, said)


def checked(pair: RawPair) -> RawPair:
    """Returns the pair. Raises: RejectedRowError where it asks nothing, or an answer is empty or the other once more."""
    prompt, chosen, rejected = pair
    if not prompt or prompt[-1]["role"] != "user":
        raise no_dialogue("the prompt does not end with a user's turn")
    good, bad = chosen.strip(), rejected.strip()
    for name, text in (("prompt", prompt[-1]["content"].strip()), ("chosen", good), ("rejected", bad)):
        if not text:
            raise RejectedRowError(RejectReason.EMPTY_FIELD, name)
    if good == bad:
        raise RejectedRowError(RejectReason.IDENTICAL_RESPONSES, good[:80])
    return pair
