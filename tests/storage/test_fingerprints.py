"""What a file holds: every byte counts, on any filesystem, and none is read twice without need."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from trace_ray.config import StorageConfig
from trace_ray.runs.remembered import RECORD, recall, remembered
from trace_ray.storage import fingerprints
from trace_ray.storage.fingerprints import content_hash
from trace_ray.storage.location import Location, locate
from trace_ray.storage.location import fingerprints as of_all


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return locate(str(tmp_path), StorageConfig())
    return locate(f"s3://lake/{uuid.uuid4().hex}", request.getfixturevalue("s3"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as old; nothing is known from other tests."""
    monkeypatch.setattr(fingerprints, "_SETTLED_SECONDS", -3600.0)
    monkeypatch.setattr(fingerprints, "known_hashes", {})


@pytest.fixture
def run(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "run"), StorageConfig())


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "pairs.jsonl").write_text("a pair\n" * 100)
    return str(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("at", [0, 70_000, 150_000, 229_999, 299_999])
def test_any_byte_counts(place: Location, at: int) -> None:
    """As of labels that are turned round in the middle of a file, its size and both its ends as they were."""
    data = bytearray(b"a" * 300_000)
    (place / "f").write_bytes(bytes(data))
    before = (place / "f").fingerprint()
    data[at] = ord("b")
    (place / "f").write_bytes(bytes(data))
    assert (place / "f").fingerprint() != before
    data[at] = ord("a")
    (place / "f").write_bytes(bytes(data))
    assert (place / "f").fingerprint() == before


def test_many_files_are_told_in_their_order(place: Location) -> None:
    for i in range(40):
        (place / f"f{i:02d}").write_text(f"file {i}")
    files = place.files()
    assert of_all(files) == [file.fingerprint() for file in files]
    assert len(set(of_all(files))) == 40
    assert of_all([]) == []


def test_a_file_of_many_pieces_counts_whole(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_PIECE_BYTES", 64)
    monkeypatch.setattr(fingerprints, "_READ_BYTES", 10)
    seen = {content_hash(file)}
    data = Path(file).read_bytes()
    for at in range(0, len(data), 63):
        Path(file).write_bytes(data[:at] + b"!" + data[at + 1 :])
        seen.add(content_hash(file))
    Path(file).write_bytes(data[64:128] + data[:64] + data[128:])
    seen.add(content_hash(file))
    Path(file).write_bytes(b"")
    seen.add(content_hash(file))
    assert len(seen) == 1 + len(range(0, len(data), 63)) + 2


@pytest.mark.usefixtures("settled")
def test_what_is_in_the_runs_record_is_not_read_again(
    file: str, run: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remembered(run):
        true = content_hash(file)
    record = json.loads((run / RECORD).read_text())
    assert list(record) == [file]
    record[file][-1] = "told by the record"
    (run / RECORD).write_text(json.dumps(record))
    monkeypatch.setattr(fingerprints, "known_hashes", {})  # as in another process
    recall(run)
    assert content_hash(file) == "told by the record"
    assert true not in record[file]


def rewritten(file: Path) -> None:
    """In place, of the same length, with its time put back; again until the kernel's clock has moved on."""
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        file.write_text("A pair\n" * 100)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("A pair\n" * 100)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    os.replace(other, file)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [rewritten, replaced])
def test_a_record_ends_with_the_file_that_it_was_made_of(
    file: str, run: Location, change: Callable[[Path], None]
) -> None:
    with remembered(run):
        before = content_hash(file)
        change(Path(file))
        assert content_hash(file) != before


def test_a_file_that_was_written_just_now_is_not_recorded(file: str, run: Location) -> None:
    """Its next change might fall into the same tick of the clock."""
    with remembered(run):
        content_hash(file)
    assert not (run / RECORD).exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["", "[]", "{half", '{"/f": 3}', '{"/f": [1, 2]}', "\x00"])
def test_a_damaged_record_says_nothing(file: str, run: Location, text: str) -> None:
    (run / RECORD).write_text(text)
    with remembered(run):
        found = content_hash(file)
    assert json.loads((run / RECORD).read_text())[file][-1] == found
