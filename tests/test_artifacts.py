"""The artefact protocol: marker last, stale inputs refused, nothing half-written seen."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.artifacts import Run
from trace_ray.config import StorageConfig
from trace_ray.errors import StaleRunError, UserError
from trace_ray.storage import locate


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
