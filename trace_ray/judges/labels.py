"""Labels that people gave: whether each response of a pair truly violates the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from trace_ray.errors import UserError
from trace_ray.storage.jsonl import read_jsonl
from trace_ray.storage.location import Location


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


def _labels_in(place: Location, setting: str) -> Iterator[tuple[str, Label]]:
    if not place.exists():
        raise UserError(setting, place.uri, "no such file; name a JSONL file of labels, local or s3://")
    remedy = "a label is {pair_id, violates_chosen, violates_rejected}, the last two true or false"
    for row, where, shown in read_jsonl(place, setting, remedy):
        try:
            pair, bits = str(row["pair_id"]), [row["violates_chosen"], row["violates_rejected"]]
            if bits != [None, None]:
                yield pair, Label(*(_bit(bit) for bit in bits))
        except (ValueError, KeyError):
            raise UserError(where, shown, remedy) from None


def _bit(value: Any) -> bool:
    if value not in (True, False, 0, 1):
        raise ValueError(value)
    return bool(value)
