"""``corpus.columns``: columns of a row under the names that the formats know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trace_ray.corpus.formats.base import Row, missing
from trace_ray.corpus.formats.layout import DIALOGUES, PROMPTS


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """Returns the row with the columns that the mapping names, each under its new name alone.

    Where it names the prompt, no other column is one.
    Raises: RejectedRowError for a row that lacks one of them, with the columns that it has.

    >>> renamed({"ask": {"text": "Why?"}, "a": "So."}, {"prompt": "ask.text", "chosen": "a"})
    {'prompt': 'Why?', 'chosen': 'So.'}
    """
    found = {name: _at(row, path) for name, path in columns.items()}
    for name, value in found.items():
        if value is None:
            raise missing(row, f"no {columns[name]}, which corpus.columns.{name} names")
    gone = {path if path in row else path.partition(".")[0] for path in columns.values()}
    gone |= {*PROMPTS, *DIALOGUES} if "prompt" in columns else set()
    return {name: value for name, value in row.items() if name not in gone} | found


def _at(row: Row, path: str) -> Any:
    """The value at a dotted path; numbers count in lists. A column that is called so comes first."""
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
