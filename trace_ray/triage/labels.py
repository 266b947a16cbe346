"""Labels: files that say whether each response of a pair truly violates the policy, and review files to be labelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.judges.labels import Label, read_label_files, read_labels

__all__ = ["FROM_PAIRS", "Label", "label_of", "labelled_rows", "read_label_files", "read_labels", "review_line"]

FROM_PAIRS = "from_pairs"


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
