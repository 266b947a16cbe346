"""Several raters' labels made one: where they agree it is the label, where they differ somebody decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trace_ray.errors import UserError
from trace_ray.storage.location import Location
from trace_ray.triage.labels import Label, read_labels

Units = list[dict[str, str]]
"""For each labelled response {rater: yes or no}, as a measure of agreement takes them."""


class Merged(NamedTuple):
    """What raters said together.

    Args:
        labels: of the pairs on which a majority agrees on both responses.
        differ: ids of the pairs on which none does.
        units: every response that somebody labelled.
    """

    labels: dict[str, Label]
    differ: list[str]
    units: Units


def merge_labels(files: Sequence[Location], decided: Mapping[str, Label] | None = None) -> Merged:
    """Returns the labels of several files, one a rater.

    Args:
        decided: labels of whoever decides: they hold whatever the raters said.
    Raises: UserError for fewer than two files, or one that cannot be read.
    """
    if len(files) < 2:
        raise UserError("label merge", [file.uri for file in files], "name two files of labels or more, one a rater")
    said = {f"{number} {file.name}": read_labels(file, "label merge") for number, file in enumerate(files)}
    pairs = list(dict.fromkeys(pair for labels in said.values() for pair in labels))
    found, differ, units = dict(decided or {}), [], Units()
    for pair in pairs:
        votes = {rater: labels[pair] for rater, labels in said.items() if pair in labels}
        units += [{rater: "yes" if vote[side] else "no" for rater, vote in votes.items()} for side in (0, 1)]
        bits = [_majority([vote[side] for vote in votes.values()]) for side in (0, 1)]
        if pair in found:
            continue
        if bits[0] is None or bits[1] is None:
            differ.append(pair)
        else:
            found[pair] = Label(bits[0], bits[1])
    return Merged(found, differ, units)


def _majority(votes: Sequence[bool]) -> bool | None:
    """None where there is none."""
    yes = sum(votes)
    return None if 2 * yes == len(votes) else 2 * yes > len(votes)


def write_labels(place: Location, labels: Mapping[str, Label]) -> None:
    """Writes labels as triage reads them."""
    rows = [
        {"pair_id": p, "violates_chosen": label.chosen, "violates_rejected": label.rejected}
        for p, label in labels.items()
    ]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
