"""Every reason to refuse a row; none costs a neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trace_ray.config import CorpusConfig, StorageConfig
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Source, read_sources
from trace_ray.errors import UserError
from trace_ray.storage.location import locate

GOOD = json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}).encode()


def pair(**fields: object) -> bytes:
    return json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"} | fields).encode()


BAD = {
    "broken_json": [b'{"prompt": "p", "chosen"', b"[" * 100_000, b"nonsense"],
    "wrong_encoding": [b'{"prompt": "p\xff", "chosen": "a", "rejected": "b"}', pair(chosen="\ud800")],
    "missing_field": [b'"text"', b"[]", b"17", pair(chosen=None), b'{"chosen": "only one", "rejected": "another"}'],
    "empty_field": [pair(chosen=""), pair(rejected=" \n"), pair(prompt="")],
    "not_a_dialogue": [pair(prompt=7), pair(chosen=["x"]), pair(prompt=[{"role": "assistant", "content": "x"}])],
    "identical_responses": [pair(chosen="same", rejected="same"), b'{"chosen": "x y", "rejected": "x y"}'],
    "no_preference": [
        json.dumps(
            {"prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": True}
            | {"is_response_1_safe": True, "safer_response_id": -1}
        ).encode()
    ],
    "too_long": [pair(chosen="x" * 101), pair(prompt="x" * 101)],
}


def read(lines: list[bytes], path: Path, config: CorpusConfig) -> tuple[list[str], list[tuple[int, str]]]:
    path.write_bytes(b"\n".join(lines) + b"\n")
    (chunk,) = read_sources([Source(locate(str(path), StorageConfig()), 3, "")], config, 0, 1 << 30)
    rejects = [(row["row"] - 3 * (1 << 40), row["reason"]) for row in chunk.rejects.to_pylist()]
    return chunk.pairs["chosen"].to_pylist(), rejects


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_is_refused_with_its_reason_and_costs_only_itself(reason: str, tmp_path: Path) -> None:
    config = CorpusConfig(max_chars=100)
    for bad in BAD[reason]:
        chosen, rejects = read([GOOD, bad, GOOD], tmp_path / "x.jsonl", config)
        assert chosen == ["a", "a"]
        assert rejects == [(1, reason)], bad[:60]


def test_too_long_can_mean_truncate(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y" * 60}]
    long = pair(chosen="c" * 150, prompt=[*turns, {"role": "user", "content": "end?"}])
    path = tmp_path / "x.jsonl"
    path.write_bytes(long + b"\n" + pair(chosen="z" * 100 + "1", rejected="z" * 100 + "2") + b"\n")
    config = CorpusConfig(max_chars=100, too_long="truncate")
    (chunk,) = read_sources([Source(locate(str(path), StorageConfig()), 0, "")], config, 0, 1 << 30)
    (row,) = chunk.pairs.to_pylist()
    assert row["chosen"] == "c" * 100
    assert row["prompt"] == [turns[1], {"role": "user", "content": "end?"}]
    assert chunk.rejects["reason"].to_pylist() == ["identical_responses"]  # what the cut left is no pair


def test_a_parquet_row_that_is_no_text_costs_only_itself(tmp_path: Path) -> None:
    bad = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    table = pa.table({"prompt": ["p"] * 3, "chosen": bad, "rejected": ["b"] * 3})
    pq.write_table(table, tmp_path / "x.parquet")
    source = Source(locate(str(tmp_path / "x.parquet"), StorageConfig()), 0, "")
    (chunk,) = read_sources([source], CorpusConfig(), 0, 1 << 30)
    assert chunk.pairs["chosen"].to_pylist() == ["a", "c"]
    assert [(r["row"], r["reason"]) for r in chunk.rejects.to_pylist()] == [(1, "wrong_encoding")]


def test_a_cut_off_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress((GOOD + b"\n") * 2000)[:-20])
    with pytest.raises(UserError, match=r"x\.jsonl\.gz"):
        list(read_sources([Source(locate(str(path), StorageConfig()), 0, "")], CorpusConfig(), 0, 1 << 30))


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -30])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_columnar_file_cut_short_is_an_error_that_names_it(kind: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    table = pa.table({"prompt": [f"p{i}" for i in range(500)], "chosen": ["a"] * 500, "rejected": ["b"] * 500})
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(path.read_bytes()[:keep])
    place = locate(str(path), StorageConfig())
    for reading in (count_rows, lambda file: list(read_sources([Source(file, 0, "")], CorpusConfig(), 0, 1 << 30))):
        with pytest.raises(UserError, match=rf"x\.{kind}: cannot be read to its end") as caught:
            reading(place)
        assert "\n" not in str(caught.value)


def test_a_parquet_page_that_was_overwritten_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    text = [f"{i} " * 50 for i in range(2000)]
    pq.write_table(pa.table({"prompt": text, "chosen": ["a"] * 2000, "rejected": ["b"] * 2000}), path)
    data = bytearray(path.read_bytes())
    data[4:2004] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.parquet: cannot be read to its end"):
        list(read_sources([Source(locate(str(path), StorageConfig()), 0, "")], CorpusConfig(), 0, 1 << 30))


def test_a_jsonl_file_cut_short_loses_its_last_row_to_the_rejects_only(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes((GOOD + b"\n") * 3 + GOOD[:-7])
    place = locate(str(path), StorageConfig())
    (chunk,) = read_sources([Source(place, 0, "")], CorpusConfig(), 0, 1 << 30)
    assert chunk.pairs.num_rows == 3
    assert [(row["row"], row["reason"]) for row in chunk.rejects.to_pylist()] == [(3, "broken_json")]
    assert count_rows(place) == 4
