"""The prompts that are answered: the corpus' held-out ones, a file of one's own, or harmful requests."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import EvaluateConfig, SelectConfig, StorageConfig
from trace_ray.evaluate.prompt_files import Row, read_prompts
from trace_ray.pairs import Category, Split, hash_fraction
from trace_ray.runs.artifacts import Artifact
from trace_ray.storage.location import expand

PROMPT_COLUMNS = ["pair_id", "prompt", "source", "category", "split"]
"""What is read of a triaged part."""


def held_out_prompts(parts: Iterable[pa.Table], limit: int, apart: Collection[str] = ()) -> list[Row]:
    """Returns the distinct prompts of the test split in the order of a hash of their pair_id; the first ``limit``, 0 = all.

    Holds one part and ``limit`` prompts at a time. Triage puts equal prompts into one part (``corpus.blocks``), so they
    are told apart there; the first pair of a prompt stands for it.

    Args:
        parts: of triaged/, in order, with PROMPT_COLUMNS.
        apart: pair_ids of prompts that are left out.
    """
    kept: list[tuple[float, int, Row]] = []
    seen = 0
    for distinct in _distinct(parts):
        rows = [row for row in distinct if row["pair_id"] not in apart]
        kept += zip(
            hash_fraction([row["pair_id"] for row in rows], 0), range(seen, seen + len(rows)), rows, strict=True
        )
        kept = sorted(kept)[:limit] if limit else kept
        seen += len(rows)
    return [row for _, _, row in sorted(kept)]


def _distinct(parts: Iterable[pa.Table]) -> Iterator[list[Row]]:
    """Yields each part's prompts of the test split, the first pair of each."""
    for part in parts:
        distinct: dict[str, Row] = {}
        for row in part.filter(pc.equal(part["split"], Split.TEST.value)).drop_columns("split").to_pylist():
            distinct.setdefault(json.dumps(row["prompt"]), row)
        yield list(distinct.values())


def dev_prompts(triaged: Artifact, select: SelectConfig) -> list[Row]:
    """Returns the held-out prompts that a checkpoint is chosen by, which the evaluation leaves out; none without selection.

    ``select.prompts`` at most, each category of each source in proportion to its held-out prompts, and at most half of
    them; which of them, a hash of seed and prompt says.
    """
    if not select.steps:
        return []
    drawn: dict[tuple[str, str], list[tuple[float, str, Row]]] = {}
    counts: dict[tuple[str, str], int] = {}
    for rows in _distinct(triaged.tables(PROMPT_COLUMNS)):
        draws = hash_fraction([json.dumps(row["prompt"]) for row in rows], select.seed, "dev")
        for draw, row in zip(draws, rows, strict=True):
            stratum = (row["category"], row["source"])
            counts[stratum] = counts.get(stratum, 0) + 1
            kept = [*drawn.get(stratum, []), (draw, row["pair_id"], row)]
            drawn[stratum] = kept if len(kept) <= 2 * select.prompts else heapq.nsmallest(select.prompts, kept)
    sizes = shares_of(counts, select.prompts)
    return [row for stratum in sorted(drawn) for _, _, row in heapq.nsmallest(sizes[stratum], drawn[stratum])]


def shares_of(counts: Mapping[tuple[str, str], int], limit: int) -> dict[tuple[str, str], int]:
    """Returns how many of each stratum are taken: ``limit`` in all, in proportion, at most half of any.

    What rounding leaves goes to the largest remainders.

    >>> shares_of({("INVERT", "a"): 60, ("RETAIN", "a"): 30, ("RETAIN", "b"): 1}, 10)
    {('INVERT', 'a'): 7, ('RETAIN', 'a'): 3, ('RETAIN', 'b'): 0}
    """
    every = sum(counts.values())
    wanted = {name: min(number // 2, limit * number / max(1, every)) for name, number in counts.items()}
    taken = {name: math.floor(share) for name, share in wanted.items()}
    left = min(limit, sum(number // 2 for number in counts.values())) - sum(taken.values())
    room = [name for name in counts if taken[name] < counts[name] // 2]
    for name in sorted(room, key=lambda name: (taken[name] - wanted[name], name))[:left]:
        taken[name] += 1
    return taken


def first_by_hash(rows: list[Row], limit: int) -> list[Row]:
    """Returns the rows in the order of a hash of their pair_id, the first ``limit`` of them, 0 = all."""
    drawn = hash_fraction([row["pair_id"] for row in rows], 0)
    ordered = [row for _, _, row in sorted(zip(drawn, range(len(rows)), rows, strict=True))]
    return ordered[: limit or None]


def own_prompts(config: EvaluateConfig, storage: StorageConfig) -> list[Row]:
    """Returns the prompts of ``prompt_file``, the first ``prompts`` by hash."""
    where = "evaluate.prompt_file"
    return first_by_hash(read_prompts(expand((config.prompt_file,), storage, where)[0], where), config.prompts)


Drawn = tuple[bool, float, str, int]
"""Of a RETAIN pair: whether it comes after those that are wanted first, its draw, its part and its place there; in their
order pairs are preferred."""


def drift_pairs(triaged: Artifact, limit: int, dev: Collection[str] | None = None) -> list[Row]:
    """Returns ``limit`` RETAIN pairs whose chosen answer should stay likely: held-out ones first, then others, by hash.

    Args:
        dev: pair_ids of dev prompts; given, these are first, and no other held-out pair is taken.
    """
    return drift_rows(triaged, drift_draws(triaged, triaged.manifest()["parts"], limit, dev))


def drift_draws(triaged: Artifact, names: Iterable[str], limit: int, dev: Collection[str] | None = None) -> list[Drawn]:
    """Returns the preferred ``limit`` pairs of some parts: the first of several groups' are those of all."""
    kept: list[Drawn] = []
    for name in names:
        columns = (triaged.place / name).read_parquet(["pair_id", "category", "split"]).to_pydict()
        held_out = [split == Split.TEST for split in columns["split"]]
        first = held_out if dev is None else [pair in dev for pair in columns["pair_id"]]
        drawn = hash_fraction(columns["pair_id"], 0)
        rows = zip(columns["category"], held_out, first, drawn, range(len(drawn)), strict=True)
        mine = [
            (not ahead, draw, name, at)
            for kind, test, ahead, draw, at in rows
            if kind == Category.RETAIN and (dev is None or ahead or not test)
        ]
        kept = heapq.nsmallest(limit, [*kept, *mine])
    return kept


def drift_rows(triaged: Artifact, drawn: Sequence[Drawn]) -> list[Row]:
    """Returns the drawn pairs, in order. Texts are read of the parts that hold one of them alone, a part at a time."""
    found: dict[tuple[str, int], Row] = {}
    for part in {name for _, _, name, _ in drawn}:
        at = [row for _, _, name, row in drawn if name == part]
        texts = (triaged.place / part).read_parquet(["pair_id", "prompt", "chosen", "split"])
        found |= zip(((part, row) for row in at), texts.take(pa.array(at)).to_pylist(), strict=True)
    return [found[name, row] for _, _, name, row in drawn]
