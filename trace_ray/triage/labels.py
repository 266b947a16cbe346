"""Labels: files that say whether each response of a pair truly violates the policy, and review files to be labelled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.errors import UserError
from trace_ray.storage.jsonl import read_jsonl
from trace_ray.storage.location import Location

FROM_PAIRS = "from_pairs"


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


def labelled_rows(judged: pa.Table, labels: Mapping[str, Label] | None) -> pa.Table:
    """Returns the rows with a label.

    Args:
        judged: has a column pair_id.
        labels: None means from_pairs, the chosen complies and the rejected violates: then all of them.
    """
    if labels is None:
        return judged
    return judged.filter(pc.is_in(judged["pair_id"], value_set=pa.array(list(labels), pa.string())))


def label_of(pair_id: str, labels: Mapping[str, Label] | None) -> Label:
    """Returns the label of a row that ``labelled_rows`` gave."""
    return Label(False, True) if labels is None else labels[pair_id]


def review_line(row: Mapping[str, Any]) -> str:
    """Returns one undecided triaged row as a line of the review file: fill in the two nulls, then feed it back."""
    shown = ("pair_id", "prompt", "chosen", "rejected", "p_violates_chosen", "p_violates_rejected", "judge_error")
    asked = {"violates_chosen": None, "violates_rejected": None}
    return json.dumps({name: row[name] for name in shown} | asked, ensure_ascii=False) + "\n"
