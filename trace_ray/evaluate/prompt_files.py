"""Prompts from files that somebody else wrote: benchmarks' CSV and JSON, JSON lines, or plain text, a prompt a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trace_ray.corpus.files import file_kind, plain_lines, raw_rows
from trace_ray.corpus.formats.base import RawPair, RejectedRowError, no_dialogue
from trace_ray.corpus.formats.dialogues import with_system
from trace_ray.corpus.formats.layout import SYSTEM_COLUMNS
from trace_ray.corpus.formats.turns import turns
from trace_ray.corpus.kinds import Form
from trace_ray.corpus.read import row_values
from trace_ray.errors import UserError
from trace_ray.pairs import Message
from trace_ray.storage.location import Location

Row = dict[str, Any]
"""pair_id, prompt (turns), source, category: the keys of one prompt."""

OTHER = "OTHER"
"""Category of a prompt that triage never saw."""

_NAMES = (
    *("prompt", "goal", "question", "query", "instruction", "forbidden_prompt", "behavior", "request"),
    *("messages", "conversations", "conversation", "turns", "input", "text"),
)
"""Columns of a prompt in public files, in any case: AdvBench, HarmBench, JailbreakBench, StrongREJECT, AlpacaEval, MT-bench."""

_SHOWN_CHARACTERS = 80


def read_prompts(place: Location, setting: str, column: Sequence[str] = ()) -> list[Row]:
    """Returns the distinct prompts of a file, in file order.

    Args:
        place: of any kind that ``corpus.files`` reads, or text with a prompt a line, called .txt.
        setting: named in errors.
        column: names of the prompt's column that come before the others known; the first that is not blank is taken.
    Raises: UserError for a file without prompts, or naming the row that has none.
    """
    names = (*column, *(name for name in _NAMES if name not in column))
    distinct: dict[str, Row] = {}
    for number, row in enumerate(_rows(place, setting), 1):
        try:
            values = row_values(row) if isinstance(row, (bytes, RejectedRowError)) else row
            asked, known = _asked(values, names), _about(values)
        except RejectedRowError as error:
            said = " ".join(error.detail.split())
            remedy = f"give a text, or turns that end with a user's, as one of {', '.join(names)}"
            raise UserError(f"{setting}: {place.uri}: row {number}", said[:200], remedy) from None
        key = json.dumps([[turn["role"], turn["content"]] for turn in asked])
        identity = hashlib.sha256(key.encode()).hexdigest()[:32]
        distinct.setdefault(key, {"pair_id": identity, "prompt": asked, **known})
    if not distinct:
        raise UserError(setting, place.uri, "the file holds no prompt")
    return list(distinct.values())


def _rows(place: Location, setting: str) -> Iterator[Any]:
    if place.name.lower().endswith(".txt") and file_kind(place, setting).form is Form.TEXT:
        return ({"prompt": line} for line in plain_lines(place, setting))
    return raw_rows(place, setting)


def _about(row: Mapping[Any, Any]) -> dict[str, str]:
    return {"source": str(row.get("source") or "file"), "category": str(row.get("category") or OTHER)}


def _asked(row: Any, names: Sequence[str]) -> list[Message]:
    """The prompt's turns. Raises: RejectedRowError where there are none, or the last is not the user's."""
    if not isinstance(row, Mapping):
        raise no_dialogue(f"a row is a JSON object, not {type(row).__name__}")
    columns = {str(name).strip().lower(): value for name, value in row.items()}
    given = {name: columns[name] for name in names if not _is_blank(columns.get(name))}
    if not given:
        raise no_dialogue(f"the row has: {', '.join(map(str, row))[:_SHOWN_CHARACTERS]}")
    name, value = next(iter(given.items()))
    if name == "turns":
        value = _only_turn(value)
    found = turns(_joined(name, value, columns), "user")
    for system in (columns[column] for column in SYSTEM_COLUMNS if not _is_blank(columns.get(column))):
        found = with_system(RawPair(found, "", ""), system).prompt
    if found[-1]["role"] != "user" or not found[-1]["content"].strip():
        raise no_dialogue(f"{name} does not end with a user's turn")
    return found


def _is_blank(value: Any) -> bool:
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _joined(name: str, value: Any, columns: Mapping[str, Any]) -> Any:
    """Alpaca's ``input`` goes below its instruction, HarmBench's context above its behavior, as their authors have it."""
    more, context = columns.get("input"), columns.get("contextstring")
    if name == "instruction" and isinstance(value, str) and isinstance(more, str) and more.strip():
        return f"{value}\n\n{more}"
    if name == "behavior" and isinstance(value, str) and isinstance(context, str) and context.strip():
        return f"{context}\n\n---\n\n{value}"
    return value


def _only_turn(value: Any) -> Any:
    """MT-bench's ``turns``: what is asked second follows an answer that is not there."""
    if not isinstance(value, (list, tuple)) or any(isinstance(part, Mapping) and "role" in part for part in value):
        return value
    if len(value) != 1:
        raise no_dialogue(f"turns holds {len(value)} questions without the answers between: give the first as prompt")
    (only,) = value
    return only.get("content", only) if isinstance(only, Mapping) else only
