"""Choosing held-out prompts part by part: what the whole table at once would give, in the memory of a part."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.regrouped import regrouped
from trace_ray.config import Config, CorpusConfig, EvaluateConfig, StorageConfig
from trace_ray.corpus.read import Source
from trace_ray.errors import UserError
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import (
    PROMPT_COLUMNS,
    drift_draws,
    drift_pairs,
    drift_rows,
    first_by_hash,
    held_out_prompts,
)
from trace_ray.evaluate.stage import evaluation_prompts
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location, locate

BLOCKS = 8


def obvious(rows: list[Row], limit: int) -> list[Row]:
    """The distinct prompts of all rows at once, the first pair of each standing for it."""
    distinct: dict[str, Row] = {}
    for row in rows:
        if row["split"] == "test":
            distinct.setdefault(json.dumps(row["prompt"]), {k: v for k, v in row.items() if k != "split"})
    return first_by_hash(list(distinct.values()), limit)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """triaged/ of two files with 90 prompts that come up again and again, as triage groups them."""
    folder = tmp_path_factory.mktemp("held-out")
    place = locate(str(folder), StorageConfig())
    rng = random.Random(0)
    for name in ("a.jsonl", "b.jsonl"):
        pairs = [{"prompt": f"p {rng.randrange(90)}", "chosen": f"{name} {i}", "rejected": "no"} for i in range(400)]
        (folder / name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    sources = [Source(place / name, index, "") for index, name in enumerate(("a.jsonl", "b.jsonl"))]
    _, blocks = regrouped(sources, CorpusConfig(holdout=0.5), BLOCKS, place / "work", place / "rejects")
    made = Run(place / "run")
    made.triaged.begin({})
    for block in range(BLOCKS):
        table = blocks.read(block)
        category = pa.array(["INVERT" if row % 3 else "RETAIN" for row in table["row"].to_pylist()])
        (made.triaged.place / f"part-{block}.parquet").write_parquet(table.append_column("category", category))
    made.triaged.publish(counts={}, seconds=0.0)
    return made


@pytest.mark.parametrize("limit", [0, 1, 7, 40, 10_000])
def test_part_by_part_chooses_what_the_whole_table_would(run: Run, limit: int) -> None:
    whole = run.triaged.read(PROMPT_COLUMNS)
    assert len(obvious(whole.to_pylist(), 0)) > 30
    found = evaluation_prompts(run, Config(evaluate=EvaluateConfig(prompts=limit)))
    assert found == obvious(whole.to_pylist(), limit)


def test_the_first_pair_of_a_prompt_stands_for_it_and_training_pairs_do_not_count() -> None:
    rows = [
        {"pair_id": str(i), "prompt": [{"content": f"p{i // 2}"}], "split": "test" if i < 8 else "train"}
        for i in range(12)
    ]
    every = held_out_prompts([pa.Table.from_pylist(rows)], 0)
    assert sorted(row["pair_id"] for row in every) == ["0", "2", "4", "6"]
    assert every[0].keys() == {"pair_id", "prompt"}
    assert held_out_prompts([pa.Table.from_pylist(rows)], 2) == every[:2]


def test_no_held_out_prompt_is_one_line_of_error(run: Run, tmp_path: Path) -> None:
    empty = Run(locate(str(tmp_path), StorageConfig()))
    empty.triaged.begin({})
    train = run.triaged.read(PROMPT_COLUMNS).slice(0, 0)
    (empty.triaged.place / "part-0.parquet").write_parquet(train)
    empty.triaged.publish(counts={}, seconds=0.0)
    with pytest.raises(UserError, match=r"corpus\.holdout: no held-out prompt"):
        evaluation_prompts(empty, Config())


def peak_of(parts: int) -> tuple[int, int]:
    """(Peak bytes of Python objects, of Arrow tables alive at once) of choosing 20 prompts."""
    arrow = 0
    before = pa.total_allocated_bytes()

    def tables() -> Iterator[pa.Table]:
        nonlocal arrow
        for number in range(parts):
            rows = [
                {"pair_id": f"{number}-{i}", "prompt": [{"role": "user", "content": f"{number} {i} " * 50}]}
                for i in range(200)
            ]
            yield pa.Table.from_pylist([row | {"source": "s", "category": "RETAIN", "split": "test"} for row in rows])
            arrow = max(arrow, pa.total_allocated_bytes() - before)

    tracemalloc.start()
    assert len(held_out_prompts(tables(), 20)) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, arrow


def test_memory_does_not_grow_with_the_corpus() -> None:
    few, many = peak_of(4), peak_of(64)
    for less, more in itertools.zip_longest(few, many):
        assert more < 1.5 * less


def obvious_drift(rows: list[Row], limit: int) -> list[Row]:
    """The RETAIN pairs of all rows at once, held-out ones first."""
    retain = [row for row in rows if row["category"] == "RETAIN"]
    sides = ([row for row in retain if (row["split"] == "test") == held] for held in (True, False))
    return [row for side in sides for row in first_by_hash(side, 0)][:limit]


@pytest.mark.parametrize("limit", [1, 7, 150, 10_000])
def test_pairs_for_the_drift_are_those_of_the_whole_table(run: Run, limit: int) -> None:
    whole = run.triaged.read(["pair_id", "prompt", "chosen", "category", "split"]).to_pylist()
    expected = obvious_drift(whole, limit)
    assert limit > 150 or len(expected) == limit
    found = drift_pairs(run.triaged, limit)
    names = run.triaged.manifest()["parts"]
    grouped = [drift_draws(run.triaged, names[i::3], limit) for i in range(3)]
    assert drift_rows(run.triaged, heapq.nsmallest(limit, itertools.chain.from_iterable(grouped))) == found
    assert found == [{k: v for k, v in row.items() if k != "category"} for row in expected]
    assert limit < 150 or {row["split"] for row in found} == {"test", "train"}


def test_texts_are_read_of_the_parts_alone_that_hold_a_chosen_pair(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []
    whole = Location.read_parquet

    def noted(place: Location, columns: list[str] | None = None, younger: Sequence[str] = ()) -> pa.Table:
        read.append((place.name, *(columns or ["everything"])))
        return whole(place, columns, younger)

    monkeypatch.setattr(Location, "read_parquet", noted)
    drift_pairs(run.triaged, 2)
    assert len([columns for columns in read if "prompt" not in columns]) == BLOCKS
    assert 1 <= len([columns for columns in read if "prompt" in columns]) <= 2
    assert not [columns for columns in read if "everything" in columns or "rejected" in columns]
