"""Locations in S3, against a real S3-speaking server."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.pipeline import run_folder
from trace_ray.storage.location import Location, expand, locate, upload_folder
from trace_ray.storage.staging import download_folder


@pytest.fixture
def place(s3: StorageConfig) -> Location:
    return locate(f"s3://lake/{uuid.uuid4().hex}", s3)


def test_bytes_and_tables_come_back(place: Location) -> None:
    (place / "a.bin").write_bytes(b"\x00\xff" * 1000)
    assert (place / "a.bin").read_bytes() == b"\x00\xff" * 1000
    table = pa.table({"row": list(range(5000)), "text": ["x" * 100] * 5000})
    (place / "part.parquet").write_parquet(table)
    assert (place / "part.parquet").read_parquet().equals(table)
    assert (place / "part.parquet").read_parquet(["row"]).column_names == ["row"]
    assert not (place / "missing").exists()


def test_a_location_survives_the_way_to_a_worker(place: Location) -> None:
    (place / "a").write_text("here")
    assert pickle.loads(pickle.dumps(place / "a")).read_text() == "here"


def test_a_folder_lists_its_own_files_only(place: Location) -> None:
    for name in ("b.parquet", "a.parquet", "deep/c.parquet", "note.txt"):
        (place / name).write_text(name)
    assert [file.name for file in place.files(".parquet")] == ["a.parquet", "b.parquet"]
    assert (place / "nowhere").files() == []


def test_a_large_file_goes_and_comes_in_parts(place: Location, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(range(256)) * (1 << 19))
    (place / "weights").upload(source)
    (place / "weights").download(copy)
    assert copy.read_bytes() == source.read_bytes()


def test_globs_and_folders_name_a_corpus(place: Location, s3: StorageConfig) -> None:
    for name in ("x/1.jsonl", "x/2.jsonl", "y/3.jsonl"):
        (place / name).write_text("{}")
    names = [file.path[-9:] for file in expand((f"{place.uri}/x", f"{place.uri}/*/*.jsonl"), s3, "corpus.paths")]
    assert names == ["x/1.jsonl", "x/2.jsonl", "y/3.jsonl"]
    (place / "x/deep/4.jsonl").write_text("{}")
    counts = {}
    for pattern in ("*/*.jsonl", "**/*.jsonl", "[xz]/?.jsonl"):
        counts[pattern] = len(expand((f"{place.uri}/{pattern}",), s3, "corpus.paths"))
    assert counts == {"*/*.jsonl": 3, "**/*.jsonl": 4, "[xz]/?.jsonl": 2}
    with pytest.raises(UserError, match="no such file"):
        expand((f"{place.uri}/z",), s3, "corpus.paths")


def test_a_changed_byte_at_the_end_changes_the_fingerprint(place: Location) -> None:
    data = b"a" * 300_000
    (place / "f").write_bytes(data)
    before = (place / "f").fingerprint()
    (place / "f").write_bytes(data[:-1] + b"b")
    assert (place / "f").fingerprint() != before


def test_a_folder_is_staged_once_and_anew_after_a_change(place: Location) -> None:
    def write(folder: str) -> None:
        Path(folder, "config.json").write_text("{}")
        Path(folder, "model.safetensors").write_bytes(b"1" * 20_000_000)
        Path(folder, "pytorch_model.bin").write_bytes(b"pickle")

    upload_folder(write, place)
    with download_folder(place) as first:
        assert sorted(p.name for p in Path(first).iterdir()) == ["config.json", "model.safetensors"]
        inode = Path(first, "model.safetensors").stat().st_ino
    with download_folder(place) as again:
        assert Path(again, "model.safetensors").stat().st_ino == inode
    (place / "config.json").write_text('{"changed": 1}')
    with download_folder(place) as changed:
        assert changed != first
        assert Path(changed, "config.json").read_text() == '{"changed": 1}'


def test_what_cannot_be_reached_is_one_line(s3: StorageConfig) -> None:
    with pytest.raises(UserError, match="there is no bucket nowhere"):
        run_folder("s3://nowhere/run", s3)
    with pytest.raises(UserError, match="S3 does not answer"):
        run_folder("s3://lake/run", StorageConfig(endpoint="http://127.0.0.1:1", max_attempts=1))
