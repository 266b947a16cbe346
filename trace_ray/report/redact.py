"""Corpus text on its way to the page: shown, hidden behind a click, or left out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

SHOWN_CHARACTERS = 900


@dataclass(frozen=True)
class Excerpt:
    """A text, or what may be said of it.

    Args:
        text: its start; empty where it is left out.
        characters: of the whole text.
        mode: ``none`` | ``hide`` | ``omit``.
    """

    text: str
    characters: int
    mode: str

    @property
    def cut(self) -> bool:
        return self.mode != "omit" and len(self.text) < self.characters


_SIDE = re.compile(r"^(chosen|rejected): ")


def error_kind(error: str) -> str:
    """Returns a judge's error without what follows its kind, which may repeat a prompt.

    >>> error_kind("chosen: endpoint 429: too many; rejected: kills the judge")
    'endpoint 429'
    >>> error_kind("too long for the judge: 3000 tokens of 2048")
    'too long for the judge'
    """
    return re.split("[:;]", _SIDE.sub("", error), maxsplit=1)[0]


def error_kinds(errors: Any) -> Any:
    """Returns the ``error_kind`` of each of an array of errors."""
    return pc.replace_substring_regex(pc.replace_substring_regex(errors, _SIDE.pattern, ""), "(?s)[:;].*", "")


def excerpt(text: str | None, mode: str, limit: int = SHOWN_CHARACTERS) -> Excerpt | None:
    """Returns the text as ``report.redact`` allows; None for no text."""
    if text is None:
        return None
    return Excerpt("" if mode == "omit" else text[:limit], len(text), mode)
