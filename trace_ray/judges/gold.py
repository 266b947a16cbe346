"""Corrected responses that people, or an oracle, wrote: y_gold for pairs whose responses both violate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from trace_ray.errors import UserError
from trace_ray.storage import Location

Gold = Mapping[tuple[str, str], str]
"""(prompt as people read it, y_w) -> y_gold."""


def read_gold(place: Location) -> Gold:
    """Returns the responses of a JSONL file of {prompt, chosen, corrected}.

    Raises: UserError for a line that is not that.
    """
    gold: dict[tuple[str, str], str] = {}
    for number, line in enumerate(place.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            prompt, chosen, corrected = (_text(row[name]) for name in ("prompt", "chosen", "corrected"))
            gold[prompt, chosen] = corrected
        except (json.JSONDecodeError, KeyError, TypeError):
            remedy = "triage.gold_responses holds one {prompt, chosen, corrected} a line, each a text"
            raise UserError(f"{place.uri}:{number}", line[:60], remedy) from None
    return gold


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


class GoldCorrector:
    """Gives y_gold where the file has one.

    Args:
        place: see ``read_gold``.
    """

    def __init__(self, place: Location) -> None:
        self.gold = read_gold(place)

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[str | None]:
        return [self.gold.get(pair) for pair in zip(requests, responses, strict=True)]

    def counts(self) -> dict[str, int]:
        return {}
