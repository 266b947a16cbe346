"""Text that users bring: UTF-8, and one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from trace_ray.errors import UserError
from trace_ray.storage.location import Location


class JsonLine(NamedTuple):
    """One line's object, and ``where`` it stands (file:line) with what stands there, for errors."""

    row: dict[str, Any]
    where: str
    text: str


def strict_json(value: Any, indent: int | None = None) -> str:
    """Returns a value as JSON that any reader takes: a number that is not finite, which JSON does not know, is null.

    >>> strict_json({"kl": float("nan"), "steps": [1, float("inf")]})
    '{"kl": null, "steps": [1, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_utf8(place: Location, setting: str) -> str:
    """Returns the file's text without a byte-order mark. Raises UserError, naming ``setting``, where it is not UTF-8."""
    try:
        return place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(setting, place.uri, f"not UTF-8 at byte {error.start}; save it as UTF-8") from None


def read_jsonl(place: Location, setting: str, remedy: str) -> Iterator[JsonLine]:
    r"""Yields the lines that are not blank. A line ends at ``\n`` alone: a text may hold Unicode's other separators raw.

    Raises: UserError, naming the line and saying ``remedy``, where one is no JSON object; as ``read_utf8`` does.
    """
    for number, line in enumerate(read_utf8(place, setting).split("\n"), 1):
        if not line.strip():
            continue
        where, shown = f"{setting}: {place.uri}:{number}", line.strip()[:80]
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise UserError(where, shown, f"not JSON: {remedy}") from None
        if not isinstance(row, dict):
            raise UserError(where, shown, remedy)
        yield JsonLine(row, where, shown)
