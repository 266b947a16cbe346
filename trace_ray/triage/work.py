"""Where a triage keeps what it has done so far, below triaged/work; deleted once triaged/ and rejects/ are published."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trace_ray.corpus.blocks import BlockFiles, records
from trace_ray.corpus.read import SLOT_SCHEMA, SLOTS, with_slots
from trace_ray.pairs import PAIR_SCHEMA
from trace_ray.runs.artifacts import REVIEW, VERDICTS, WORK, Run
from trace_ray.storage.location import Location


@dataclass(frozen=True)
class Work:
    """The folders of one triage. A block's step is done when its tally is there, which is written last.

    Args:
        triaged, rejects: the two artefacts' folders; reviews: of undecided rows, for people.
        files: where the blocks lie, once the corpus is regrouped.
    """

    triaged: Location
    rejects: Location
    reviews: Location
    files: BlockFiles | None = None

    @classmethod
    def of(cls, run: Run) -> Work:
        return cls(run.triaged.place, run.rejects.place, run.place / REVIEW)

    @property
    def place(self) -> Location:
        return self.triaged / WORK

    @property
    def runs(self) -> Location:
        return self.place / "runs"

    @property
    def pieces(self) -> Location:
        return self.place / "pieces"

    @property
    def attempts(self) -> Location:
        return self.place / "attempts"

    @property
    def deaths(self) -> Location:
        return self.place / "deaths"

    def sweep(self) -> None:
        """Removes what is of no use once triaged/ and rejects/ are published; a kill may have come in between."""
        self.place.delete_folder()

    def verdicts(self, block: int) -> Location:
        """What the judges said of a block; it outlives this folder, to be decided again."""
        return self.triaged / VERDICTS / f"{_name(block)}.parquet"

    def decided_first(self, place: str) -> Location:
        """What the first judge of a cascade decided of a block, or of a piece of the first look, in a pass of its own."""
        return self.place / "first_judge" / f"{place}.parquet"

    def review(self, block: int) -> Location:
        return self.reviews / f"part-{_name(block)}.jsonl"

    def part(self, block: int) -> str:
        """The name of a block's part in triaged/ and in rejects/."""
        return f"part-{_name(block)}.parquet"

    def pairs(self, block: int) -> pa.Table:
        """Returns a block's pairs in SLOT_SCHEMA, ordered by row."""
        if self.files is None:
            raise RuntimeError("a block's pairs were asked for before the corpus was regrouped")
        return self.files.read(block)

    def triaged_pairs(self, block: int) -> pa.Table:
        """Returns the pairs of a block that is published: those that were not refused, in SLOT_SCHEMA."""
        place = self.triaged / self.part(block)
        return with_slots(place.read_parquet(PAIR_SCHEMA.names)) if place.exists() else SLOT_SCHEMA.empty_table()

    def finish(self, step: str, block: int, tally: Mapping[str, Any]) -> None:
        """Records a step (``first``, ``judge`` or ``decide``) of one block as done."""
        (self.place / step / f"{_name(block)}.json").write_text(json.dumps(tally))

    def record_use(self, used: Mapping[str, int]) -> None:
        """Records what judges used for a block that they were refused to finish."""
        (self.place / "used" / f"{uuid.uuid4().hex}.json").write_text(json.dumps(used))

    def unfinished_use(self) -> list[dict[str, int]]:
        """Returns what ``record_use`` recorded."""
        return records(self.place / "used")

    def finished(self, step: str) -> dict[int, dict[str, Any]]:
        """Returns {block: tally} of the blocks whose step is done."""
        return {tally["block"]: tally for tally in records(self.place / step)}


def _name(block: int) -> str:
    return f"block-{block:06d}"


def window_of(slot: int, blocks: int) -> tuple[int, int]:
    """Returns the window of the block that a slot belongs to."""
    return window(slot * blocks // SLOTS, blocks)


def window(block: int, blocks: int) -> tuple[int, int]:
    """Returns the slots start..stop of a block."""
    return block * SLOTS // blocks, (block + 1) * SLOTS // blocks
