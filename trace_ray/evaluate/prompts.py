"""The prompts that are answered: the corpus' held-out ones, a file of one's own, or harmful requests."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import EvaluateConfig, StorageConfig
from trace_ray.evaluate.prompt_files import Row, read_prompts
from trace_ray.pairs import Category, Split, hash_fraction
from trace_ray.runs.artifacts import Artifact
from trace_ray.storage.location import expand

PROMPT_COLUMNS = ["pair_id", "prompt", "source", "category", "split"]
"""What is read of a triaged part."""


def held_out_prompts(parts: Iterable[pa.Table], limit: int) -> list[Row]:
    """Returns the distinct prompts of the test split in the order of a hash of their pair_id; the first ``limit``, 0 = all.

    Holds one part and ``limit`` prompts at a time. Triage puts equal prompts into one part (``corpus.blocks``), so they
    are told apart there; the first pair of a prompt stands for it.

    Args:
        parts: of triaged/, in order, with PROMPT_COLUMNS.
    """
    kept: list[tuple[float, int, Row]] = []
    seen = 0
    for part in parts:
        distinct: dict[str, Row] = {}
        for row in part.filter(pc.equal(part["split"], Split.TEST.value)).drop_columns("split").to_pylist():
            distinct.setdefault(json.dumps(row["prompt"]), row)
        rows = list(distinct.values())
        kept += zip(
            hash_fraction([row["pair_id"] for row in rows], 0), range(seen, seen + len(rows)), rows, strict=True
        )
        kept = sorted(kept)[:limit] if limit else kept
        seen += len(rows)
    return [row for _, _, row in sorted(kept)]


def first_by_hash(rows: list[Row], limit: int) -> list[Row]:
    """Returns the rows in the order of a hash of their pair_id, the first ``limit`` of them, 0 = all."""
    drawn = hash_fraction([row["pair_id"] for row in rows], 0)
    ordered = [row for _, _, row in sorted(zip(drawn, range(len(rows)), rows, strict=True))]
    return ordered[: limit or None]


def own_prompts(config: EvaluateConfig, storage: StorageConfig) -> list[Row]:
    """Returns the prompts of ``prompt_file``, the first ``prompts`` by hash."""
    where = "evaluate.prompt_file"
    return first_by_hash(read_prompts(expand((config.prompt_file,), storage, where)[0], where), config.prompts)


def drift_pairs(triaged: Artifact, limit: int) -> list[Row]:
    """Returns ``limit`` RETAIN pairs whose chosen answer should stay likely: held-out ones first, then others, by hash.

    Texts are read of the parts that hold one of them alone, a part at a time.
    """
    names = triaged.manifest()["parts"]
    kept: list[tuple[bool, float, int, int]] = []
    for part, name in enumerate(names):
        columns = (triaged.place / name).read_parquet(["pair_id", "category", "split"]).to_pydict()
        drawn = hash_fraction(columns["pair_id"], 0)
        rows = zip(columns["category"], columns["split"], drawn, range(len(drawn)), strict=True)
        mine = [(split != Split.TEST, draw, part, at) for kind, split, draw, at in rows if kind == Category.RETAIN]
        kept = heapq.nsmallest(limit, [*kept, *mine])
    found: dict[tuple[int, int], Row] = {}
    for part in {part for _, _, part, _ in kept}:
        at = [row for _, _, other, row in kept if other == part]
        texts = (triaged.place / names[part]).read_parquet(["pair_id", "prompt", "chosen", "split"])
        found |= zip(((part, row) for row in at), texts.take(pa.array(at)).to_pylist(), strict=True)
    return [found[part, row] for _, _, part, row in kept]
