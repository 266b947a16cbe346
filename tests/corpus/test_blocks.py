"""Regrouping: nothing lost, prompts together, the same whatever the number of blocks; the shared files read whole."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.regrouped import regrouped
from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus import runs as runs_module
from trace_ray.corpus.blocks import MOST_BLOCKS, block_count
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Source
from trace_ray.corpus.row_sums import row_sum
from trace_ray.pairs import hash_fraction, pair_id
from trace_ray.storage.location import Location, locate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def place(path: Path) -> Location:
    return locate(str(path), StorageConfig())


def corpus(path: Path, rows: int) -> list[dict[str, str]]:
    made = [{"prompt": f"q{i % 37}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return made


def sum_of(numbers: Iterable[int]) -> int:
    return row_sum(pa.chunked_array([pa.array(list(numbers), pa.int64())]))


def test_the_sum_is_of_splitmix64s_published_outputs_and_tells_first_rows_apart() -> None:
    assert [sum_of([0]), sum_of([1234567])] == [0xE220A8397B1DCDAF, 6457827717110365317]
    firsts = [index << 40 for index in range(4)]
    assert len({sum_of([first]) for first in firsts}) == 4
    assert sum_of(firsts) == sum(map(sum_of, ([first] for first in firsts))) % 2**64
    assert sum_of([firsts[1], firsts[1]]) != sum_of(firsts[1:3])  # one lost, another doubled


@pytest.mark.parametrize(
    ("rows", "blocks", "pieces"), [(1, 1, 1), (7, 4, 4), (101, 1, 1), (101, 8, 2), (101, 64, 1), (101, 64, 64)]
)
def test_blocks_hold_every_row_once_and_keep_prompts_together(
    rows: int, blocks: int, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "CHUNK_BYTES", 500)  # several messages a run
    made = corpus(tmp_path / "x.jsonl", rows)
    source, folders = (
        Source(place(tmp_path / "x.jsonl"), 0, ""),
        (place(tmp_path / "work"), place(tmp_path / "rejects")),
    )
    tally, files = regrouped([source], CorpusConfig(), blocks, *folders, pieces=pieces, run_bytes=3000)
    tables = [files.read(block) for block in range(blocks)]
    found = [row for table in tables for row in table.to_pylist()]
    assert sorted(row["row"] for row in found) == list(range(rows))
    assert all(table["row"].to_pylist() == sorted(table["row"].to_pylist()) for table in tables)
    for row in found:
        assert row["chosen"] == made[row["row"]]["chosen"]
        assert row["pair_id"] == pair_id(row["prompt"], row["chosen"], row["rejected"])
    homes = [{row["prompt"][0]["content"] for row in table.to_pylist()} for table in tables]
    assert sum(map(len, homes)) == len(set().union(*homes))
    assert tally["rows"] == rows
    assert tally["row_sum"] % 2**64 == sum_of(range(rows))
    if rows == 101:
        assert len(tally["runs"]) > 1


def test_refused_rows_are_in_the_tally_too(tmp_path: Path) -> None:
    corpus(tmp_path / "x.jsonl", 3)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write("{broken\n[]\n")
    source = Source(place(tmp_path / "x.jsonl"), 0, "")
    tally, _ = regrouped([source], CorpusConfig(), 2, place(tmp_path / "work"), place(tmp_path / "rejects"))
    assert (tally["rows"], tally["rejects"]) == (5, 2)
    assert tally["refused_sum"] % 2**64 == sum_of([3, 4])
    assert (tally["reasons"], tally["parts"]) == ({"broken_json": 1, "missing_field": 1}, ["part-read-000000.parquet"])
    assert tally["row_sum"] % 2**64 == sum_of(range(5))
    refused = [row for part in place(tmp_path / "rejects").files() for row in part.read_parquet().to_pylist()]
    assert [(row["row"], row["reason"]) for row in refused] == [(3, "broken_json"), (4, "missing_field")]


def test_the_holdout_is_drawn_by_the_prompts_hash(tmp_path: Path) -> None:
    corpus(tmp_path / "x.jsonl", 200)
    source = Source(place(tmp_path / "x.jsonl"), 0, "")
    _, files = regrouped([source], CorpusConfig(holdout=0.3), 1, place(tmp_path / "work"), place(tmp_path / "rejects"))
    for row in files.read(0).to_pylist():
        key = json.dumps([[turn["role"], turn["content"]] for turn in row["prompt"]], ensure_ascii=False)
        assert (row["split"] == "test") == (hash_fraction([key], 0)[0] < 0.3)


def test_block_count_follows_the_rows() -> None:
    assert [block_count(n, 100) for n in (1, 100, 101, 200, 201, 100_000)] == [1, 1, 2, 2, 4, 1024]
    assert block_count(10**9, 100) == MOST_BLOCKS
    assert block_count(1, 100, 8) == 8


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "pairs", "rejects"),
    [("pku_saferlhf_2400.jsonl.gz", 2400, {}), ("hh_harmless_1200.jsonl.gz", 1196, {"empty_field": 4})],
)
def test_the_shared_files_are_read_whole(name: str, pairs: int, rejects: dict[str, int], tmp_path: Path) -> None:
    with gzip.open(SHARED / name, "rt") as lines:
        total = sum(1 for line in lines if line.strip())
    source = Source(place(SHARED / name), 0, "")
    assert count_rows(source.place) == total
    out = place(tmp_path / "work"), place(tmp_path / "rejects")
    tally, files = regrouped([source], CorpusConfig(), 4, *out)
    read = sum(files.read(block).num_rows for block in range(4))
    reasons = Counter(r for part in out[1].files() for r in part.read_parquet()["reason"].to_pylist())
    assert (tally["rows"], read, dict(reasons)) == (total, pairs, rejects)
    assert pairs + sum(rejects.values()) == total
