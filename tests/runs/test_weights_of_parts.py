"""Readers of scored/ get weights by the manifest's rule; parts that hold them, as those of old do, are read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from trace_ray.config import StorageConfig
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.runs.export_pairs import export_pairs
from trace_ray.runs.one_pair import pair_record
from trace_ray.storage.location import locate

ROWS: list[dict[str, Any]] = [
    {"pair_id": "a", "category": "INVERT", "impact": 4.0, "weight": 0.125},
    {"pair_id": "b", "category": "PUNISH", "impact": -1.0, "weight": 0.25},
    {"pair_id": "c", "category": "RETAIN", "impact": None, "weight": 0.5},
    {"pair_id": "d", "category": "PUNISH", "impact": 2.0, "weight": 0.75},
]
RULE = {"of": "impact", "scale": {"INVERT": 0.5, "PUNISH": 3.0}}
BY_RULE = [2.0, 0.0, 1.0, 6.0]


def scored_run(place: Path, *, stored: bool) -> Run:
    run = Run(locate(str(place), StorageConfig()))
    table = pa.Table.from_pylist([row | {"chosen": "x", "rejected": "y"} for row in ROWS], schema=SCORED_SCHEMA)
    table = table if stored else table.drop_columns(["weight"])
    for artifact in (run.triaged, run.scored):
        artifact.begin({})
        for number, start in enumerate((0, 3)):
            (artifact.place / f"part-{number}.parquet").write_parquet(table.slice(start, 3))
    run.scored.publish(counts={}, seconds=0, **({} if stored else {"weights": RULE}))
    return run


@pytest.mark.parametrize("stored", [True, False])
def test_every_reader_gets_the_same_weights(stored: bool, tmp_path: Path) -> None:
    expected = [row["weight"] for row in ROWS] if stored else BY_RULE
    run = scored_run(tmp_path / "run", stored=stored)
    whole = run.scored.read()
    assert whole.column_names == SCORED_SCHEMA.names
    assert whole["weight"].to_pylist() == expected
    for columns in (["weight"], ["weight", "pair_id"], ["pair_id", "impact", "weight"]):
        part = run.scored.read(columns)
        assert (part.column_names, part["weight"].to_pylist()) == (columns, expected)
    assert run.scored.read(["pair_id"]).column_names == ["pair_id"]
    assert [pair_record(run, pair)["triaged"]["pair_id"] for pair in "abcd"] == list("abcd")
    out = locate(str(tmp_path / "out"), StorageConfig())
    export_pairs(run, out)
    found = pa.concat_tables([part.read_parquet(["pair_id", "weight"]) for part in out.files()]).to_pylist()
    assert {pair["pair_id"]: pair["weight"] for pair in found} == {"a": expected[0], "c": expected[2]}


def test_ones_are_scaled_too(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", stored=False)
    manifest = run.scored.place / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"of": "impact"', '"of": "ones"'))
    assert run.scored.read(["weight"])["weight"].to_pylist() == [0.5, 3.0, 1.0, 3.0]
