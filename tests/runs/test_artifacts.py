"""The artefact protocol: marker last, stale inputs refused, nothing half-written seen."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import StaleRunError, UserError
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(locate(str(tmp_path / "run"), StorageConfig()))


def test_a_folder_is_done_only_after_it_is_published(run: Run) -> None:
    assert run.triaged.begin({"policy": "a"})
    with pytest.raises(UserError, match="not finished"):
        run.triaged.manifest()
    (run.triaged.place / "part-0.parquet").write_parquet(pa.table({"row": [1, 2]}))
    run.triaged.publish(counts={"rows": 2}, seconds=1.0)
    assert not run.triaged.begin({"policy": "a"})
    assert run.triaged.manifest()["counts"] == {"rows": 2}
    assert run.triaged.read()["row"].to_pylist() == [1, 2]


def test_changed_inputs_are_refused_with_both_values(run: Run) -> None:
    run.triaged.begin({"policy": "old"})
    with pytest.raises(StaleRunError, match=r"policy: 'new'.*'old'"):
        run.triaged.begin({"policy": "new"})


@pytest.mark.parametrize(("before", "now"), [({}, {"policy": "new"}), ({"policy": "old"}, {})])
def test_an_input_that_came_or_went_is_a_change(run: Run, before: dict[str, str], now: dict[str, str]) -> None:
    run.triaged.begin(before)
    with pytest.raises(StaleRunError, match=r"policy: .*absent"):
        run.triaged.begin(now)


def test_the_marker_comes_last(run: Run) -> None:
    """A manifest that cannot be written, because a folder is in its place, leaves the artefact unfinished."""
    run.triaged.begin({})
    Path(run.triaged.place.path, "manifest.json", "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"manifest\.json"):
        run.triaged.publish(counts={}, seconds=0.0)
    assert not run.triaged.done()
    assert run.triaged.begin({})


def test_a_write_that_fails_leaves_nothing_and_the_old_file(run: Run) -> None:
    place = run.triaged.place
    (place / "part-0.parquet").write_text("old")
    with pytest.raises(TypeError):
        (place / "part-0.parquet").write_bytes("no bytes")  # type: ignore[arg-type]
    assert [file.name for file in Path(place.path).iterdir()] == ["part-0.parquet"]
    assert (place / "part-0.parquet").read_text() == "old"


def test_a_write_that_dies_leaves_no_part(run: Run) -> None:
    run.triaged.begin({})
    (Path(run.triaged.place.path) / ".part-0.parquet.1234.tmp").write_bytes(b"half")
    assert run.triaged.parts() == []


def test_an_artefact_without_rows_still_reads_as_a_table(run: Run) -> None:
    run.rejects.begin({})
    run.rejects.publish(counts={}, seconds=0.0, schema=pa.schema([("row", pa.int64())]))
    assert run.rejects.read().num_rows == 0


def test_s3_paths_that_climb_are_refused() -> None:
    with pytest.raises(UserError, match="plain prefix"):
        locate("s3://bucket/../other", StorageConfig())
