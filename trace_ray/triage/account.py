"""Rows in + extra = rows out + rejects, from what was counted as each file was written: none is read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from trace_ray.corpus.blocks import BlockFiles
from trace_ray.corpus.row_sums import row_sum
from trace_ray.runs.artifacts import Artifact, Run


@dataclass(frozen=True)
class Refused:
    """Rows that could not be read: {why: rows}, the sum over their numbers, the files that tell of them."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    row_sum: int = 0
    parts: Sequence[str] = ()


@dataclass(frozen=True)
class ReadRows:
    """How the corpus was read.

    Args:
        rows: in all; row_sum: over the numbers of the pairs and rejects made of them (``corpus.row_sums.row_sum``).
        blocks: that they were grouped into.
        extra: pairs and rejects beyond one a row: a ranked set makes several (``corpus.pairs``).
        refused: of them; files: where the blocks lie; requests: that reading made of object stores, by step.
        hub: {dataset of the hub: commit}.
    """

    rows: int
    row_sum: int
    blocks: int
    extra: int = 0
    refused: Refused = field(default_factory=Refused)
    files: BlockFiles | None = None
    requests: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    hub: Mapping[str, str] = field(default_factory=dict)

    @property
    def made(self) -> int:
        """Pairs and rejects made of the rows."""
        return self.rows + self.extra


def written(triaged: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    """Returns what a tally tells of two tables that were written: their rows, the sum over their numbers, reasons."""
    return {
        "triaged": triaged.num_rows,
        "row_sum": row_sum(triaged["row"]) + row_sum(rejects["row"]),
        "reasons": dict(Counter(rejects["reason"].to_pylist())),
    }


@dataclass
class Account:
    """What was written so far, summed over tallies; its size is that of the parts' names.

    Args:
        triaged: rows; reasons: {why refused: rows}; row_sum: over the numbers of both.
        parts: {``triaged`` | ``rejects``: names of the files written}.
    """

    triaged: int = 0
    row_sum: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    parts: dict[str, set[str]] = field(default_factory=lambda: {"triaged": set(), "rejects": set()})

    def add(self, told: Mapping[str, Any], part: str) -> None:
        """Adds what ``written`` told of the files called ``part``."""
        self.triaged += told["triaged"]
        self.row_sum += told["row_sum"]
        self.reasons.update(told["reasons"])
        for name, rows in (("triaged", told["triaged"]), ("rejects", sum(told["reasons"].values()))):
            if rows:
                self.parts[name].add(part)

    def add_refused(self, refused: Refused) -> None:
        """Adds the rows that could not be read."""
        self.row_sum += refused.row_sum
        self.reasons.update(refused.reasons)
        self.parts["rejects"].update(refused.parts)

    def check(self, run: Run, read: ReadRows) -> None:
        """Deletes files that no tally tells of, as an earlier version's task may have left them.

        Raises: RuntimeError unless all that was made of the rows read was written, once, and is there.
        """
        rows = self.triaged + sum(self.reasons.values())
        if rows != read.made or (self.row_sum - read.row_sum) % 2**64:
            raise RuntimeError(f"triage lost or doubled rows: {read.made} read, {rows} written")
        for artifact in (run.triaged, run.rejects):
            _keep_only(artifact, self.parts[artifact.name])


def _keep_only(artifact: Artifact, names: set[str]) -> None:
    there = {place.name for place in artifact.parts()}
    if gone := names - there:
        raise RuntimeError(f"{artifact.place.uri}: {len(gone)} files are gone that were written, such as {min(gone)}")
    for name in there - names:
        artifact.place.fs.delete_file((artifact.place / name).path)
