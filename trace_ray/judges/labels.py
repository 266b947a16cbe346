"""Labels that people gave: whether each response of a pair truly violates the policy.

Two models' answers to one prompt are a pair too: ``answers_id``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from trace_ray.errors import UserError
from trace_ray.pairs import pair_id
from trace_ray.storage.jsonl import read_jsonl
from trace_ray.storage.location import Location

SIDES = ("chosen", "rejected")
_REMEDY = "a label is {pair_id, violates_chosen, violates_rejected}, the last two true or false"


class Label(NamedTuple):
    """Whether each response of a pair truly violates the policy."""

    chosen: bool
    rejected: bool


def read_labels(place: Location, setting: str = "labels") -> dict[str, Label]:
    """As ``read_label_files``, of one file."""
    return read_label_files([place], setting)


def read_label_files(places: Sequence[Location], setting: str) -> dict[str, Label]:
    """Returns {pair_id: Label} from JSONL files with pair_id, violates_chosen and violates_rejected.

    A row whose two labels are null, as in a review file, is not labelled yet and left out.

    Args:
        setting: named in errors.
    Raises: UserError where there is no such file, a line is no label, or none is there.
    """
    labels = {pair: label for place in places for pair, label in _labels_in(place, setting)}
    if not labels:
        raise UserError(
            setting, places[0].uri, "no file here holds a label" if places[1:] else "the file holds no label"
        )
    return labels


def read_broken(place: Location, setting: str) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Returns {pair_id: ids of the clauses that its two responses break} of the labels that say so, as the page's do."""
    found = {}
    for row, _, _ in read_jsonl(place, setting, _REMEDY):
        chosen, rejected = (row.get(f"clauses_{side}") for side in SIDES)
        if chosen or rejected:
            found[str(row["pair_id"])] = (frozenset(map(str, chosen or ())), frozenset(map(str, rejected or ())))
    return found


def answers_id(prompt: str, base: str, realigned: str) -> str:
    """Returns the pair_id of two models' answers: labelled as a pair of which the base's is the chosen one.

    It is of their texts, so a label is never taken for one of other answers.

    Args:
        prompt: as ``responses/`` has it, one text.
    """
    return pair_id([{"role": "user", "content": prompt}], base, realigned)


def _labels_in(place: Location, setting: str) -> Iterator[tuple[str, Label]]:
    if not place.exists():
        raise UserError(setting, place.uri, "no such file; name a JSONL file of labels, local or s3://")
    for row, where, shown in read_jsonl(place, setting, _REMEDY):
        try:
            pair, bits = str(row["pair_id"]), [row["violates_chosen"], row["violates_rejected"]]
            if bits != [None, None]:
                yield pair, Label(*(_bit(bit) for bit in bits))
        except (ValueError, KeyError):
            raise UserError(where, shown, _REMEDY) from None


def _bit(value: Any) -> bool:
    if value not in (True, False, 0, 1):
        raise ValueError(value)
    return bool(value)
