"""The audit before the corpus: labelled pairs and a sample are judged first, and what they show can stop the run.

The driver draws the sample; whichever actor comes first judges the pieces of it that nobody has judged yet, so that no actor
waits for another and none is lost with a node. The verdicts are used when their block's turn comes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.cluster.tasks import by_tasks
from trace_ray.corpus.read import SLOT_SCHEMA
from trace_ray.judges.opinion import Opinion
from trace_ray.runs.artifacts import inputs_hash
from trace_ray.storage.location import Location
from trace_ray.triage.block import KEPT, SIDES, merge_counts
from trace_ray.triage.labelled import Labels
from trace_ray.triage.questions import prompt_texts
from trace_ray.triage.store import OPINION, opinions_of, response_key
from trace_ray.triage.work import Work

PIECE = 64
"""Pairs that an actor judges before it looks again for what others have judged."""
_FOR_NOW = "endpoint"
"""How an error begins that another try may not give."""


@dataclass(frozen=True)
class First:
    """What is judged first, on disk.

    Args:
        place: a folder of this sample's own.
    """

    place: Location

    @property
    def pairs(self) -> Location:
        return self.place / "pairs.parquet"

    @property
    def passed(self) -> Location:
        return self.place / "passed.json"

    def verdicts(self, piece: int) -> Location:
        return self.place / f"judged-{piece:05d}.parquet"

    def counted(self, piece: int) -> Location:
        return self.place / f"counted-{piece:05d}.json"

    def pieces(self) -> list[pa.Table]:
        """Returns the sample in pieces, SLOT_SCHEMA."""
        table = self.pairs.read_parquet() if self.pairs.exists() else SLOT_SCHEMA.empty_table()
        return [table.slice(start, PIECE) for start in range(0, table.num_rows, PIECE)]

    def judged(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yields the judged pieces: pairs and, row for row, their verdicts."""
        for number, pairs in enumerate(self.pieces()):
            if self.verdicts(number).exists():
                yield pairs, self.verdicts(number).read_parquet()

    def counts(self) -> dict[str, int]:
        """Returns what was counted while the sample was judged."""
        return merge_counts([json.loads(place.read_text()) for place in self.place.files(".json") if _counts(place)])


def _counts(place: Location) -> bool:
    return place.name.startswith("counted-")


def first_of(work: Work, labels: Labels, audit_rows: int, audit_sample: int) -> First:
    """Returns where this triage's first look is kept: other labels, another place."""
    ids = ["from_pairs"] if labels is None else sorted(labels)
    return First(work.place / "first" / inputs_hash({"ids": ids, "rows": audit_rows, "sample": audit_sample}))


def draw_first(first: First, work: Work, labels: Labels, blocks: int, audit_rows: int, audit_sample: int) -> None:
    """Writes the pairs that are judged first, unless that is done; an earlier judgement of them by other limits is forgotten.

    Args:
        labels: up to ``audit_rows`` of the labelled pairs are taken; None = from_pairs: as many of the first blocks.
        audit_sample: pairs taken besides, the same number of each source as far as they go, from the first blocks.
    """
    if first.passed.exists():
        first.passed.fs.delete_file(first.passed.path)
    if first.pairs.exists():
        return
    wanted = audit_rows if labels is None else audit_sample
    near = _first_pairs(work, blocks, max(wanted, 4 * audit_sample))
    chosen = near.slice(0, wanted) if labels is None else by_source(near, audit_sample)
    found = [_labelled_pairs(work, labels, audit_rows)] if labels else []
    table = pa.concat_tables([*found, chosen])
    rows = np.unique(table["row"].to_numpy(), return_index=True)[1]
    first.pairs.write_parquet(table.take(pa.array(rows)).sort_by([("slot", "ascending"), ("row", "ascending")]))


def by_source(pairs: pa.Table, number: int) -> pa.Table:
    """Returns up to ``number`` of the pairs: one of each source in turn, until there are enough."""
    turns: dict[str, int] = defaultdict(int)
    order = []
    for i, source in enumerate(pairs["source"].to_pylist()):
        order.append((turns[source], i))
        turns[source] += 1
    return pairs.take(pa.array(sorted(i for _, i in sorted(order)[:number]), pa.int64()))


def _first_pairs(work: Work, blocks: int, number: int) -> pa.Table:
    found: list[pa.Table] = []
    for block in range(blocks):
        if sum(table.num_rows for table in found) >= number:
            break
        found.append(work.pairs(block))
    return pa.concat_tables([SLOT_SCHEMA.empty_table(), *found])


def _labelled_pairs(work: Work, labels: Mapping[str, Any], most: int) -> pa.Table:
    """The labelled pairs, the first ``most`` by their ids: one look at the ids of the whole corpus, by tasks."""
    ids = pa.array(sorted(labels), pa.string())
    found = by_tasks(labelled_in, work.pieces.files(".arrow"), ids, least=2)
    table = pa.concat_tables([SLOT_SCHEMA.empty_table(), *found])
    return table.sort_by("pair_id").slice(0, most)


def labelled_in(run: Location, ids: pa.Array) -> pa.Table:
    """Returns the pairs of one file of blocks whose ids are among ``ids``; texts are read of their batches alone."""
    found = [SLOT_SCHEMA.empty_table()]
    column = pa.ipc.IpcReadOptions(included_fields=[SLOT_SCHEMA.get_field_index("pair_id")])
    with (
        run.fs.open_input_file(run.path) as file,
        pa.ipc.open_file(file, options=column) as names,
        pa.ipc.open_file(file) as whole,
    ):
        for number in range(names.num_record_batches):
            mine = pc.is_in(names.get_batch(number).column(0), value_set=ids)
            if pc.any(mine).as_py():
                found.append(pa.Table.from_batches([whole.get_batch(number)], schema=SLOT_SCHEMA).filter(mine))
    return pa.concat_tables(found)


def judged_responses(judged: Iterable[tuple[pa.Table, pa.Table]]) -> Iterator[tuple[str, str, float]]:
    """Yields request, response and P(violates) of what the judge of ``First.judged`` gave a verdict on."""
    for pairs, verdicts in judged:
        texts = prompt_texts(pairs["prompt"])
        for side in SIDES:
            columns = (pairs[side].to_pylist(), verdicts[f"p_{side}"].to_pylist())
            yield from ((text, response, p) for text, response, p in zip(texts, *columns, strict=True) if p is not None)


def known_opinions(judged: Sequence[tuple[pa.Table, pa.Table]], name: str) -> dict[bytes, Opinion]:
    """Returns {key of a response: what a judge said of it}; what failed for now is left out, to be asked again.

    Args:
        judged: of ``First.judged``; name: ``judge``, ``second`` or ``third``.
    """
    mine = {column: f"{KEPT.get(column, column)}_{{}}" for column in OPINION}
    wanted = mine if name == "judge" else {"p_violates": f"{name}_{{}}", "error": f"{name}_error_{{}}"}
    known: dict[bytes, Opinion] = {}
    for pairs, verdicts in judged:
        texts, refused = prompt_texts(pairs["prompt"]), verdicts["reason"].to_pylist()
        for side in SIDES:
            columns = {column: verdicts[source.format(side)] for column, source in wanted.items()}
            told = zip(texts, pairs[side].to_pylist(), refused, opinions_of(pa.table(columns)), strict=True)
            for text, response, reason, opinion in told:
                settled = opinion.p_violates is not None or (opinion.error and not opinion.error.startswith(_FOR_NOW))
                if reason is None and settled:
                    known[response_key(text, response)] = opinion
    return known
