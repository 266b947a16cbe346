"""Corrected responses that people, or an oracle, wrote: y_gold for pairs whose responses both violate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trace_ray.errors import UserError
from trace_ray.judges.opinion import Draft
from trace_ray.storage.jsonl import read_jsonl
from trace_ray.storage.location import Location

Gold = Mapping[tuple[str, str], str]
"""(prompt as people read it, y_w) -> y_gold."""


def read_gold(place: Location) -> Gold:
    """Returns the responses of a JSONL file of {prompt, chosen, corrected}.

    Raises: UserError for a line that is not that.
    """
    gold: dict[tuple[str, str], str] = {}
    remedy = "it holds one {prompt, chosen, corrected} a line, each a text"
    for row, where, shown in read_jsonl(place, "triage.gold_responses", remedy):
        try:
            prompt, chosen, corrected = (_text(row[name]) for name in ("prompt", "chosen", "corrected"))
        except (KeyError, TypeError):
            raise UserError(where, shown, remedy) from None
        gold[prompt, chosen] = corrected
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

    def drafts(self, requests: Sequence[str], responses: Sequence[str]) -> list[Draft]:
        return [Draft(self.gold.get(pair)) for pair in zip(requests, responses, strict=True)]

    def counts(self) -> dict[str, int]:
        return {}
