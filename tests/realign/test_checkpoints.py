"""What is left of a training's checkpoints once it is over, on a disk and in S3."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from trace_ray.artifacts import Run
from trace_ray.config import StorageConfig
from trace_ray.realign.stage import CHECKPOINTS, SNAPSHOT, _drop_damaged_snapshot, _drop_strays
from trace_ray.storage import Location, locate


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, s3: StorageConfig) -> Run:
    uri = str(tmp_path / "run") if request.param == "local" else f"s3://lake/{uuid.uuid4().hex}"
    return Run(locate(uri, s3))


def names(place: Location) -> list[str]:
    return sorted(info.base_name for info in place.fs.get_file_info(pafs.FileSelector(place.path)))


def test_what_a_killed_worker_could_not_report_is_deleted(run: Run) -> None:
    from ray.train import Checkpoint

    folder = run.realign.place / CHECKPOINTS
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        (folder / name / "cursor.json").write_text("{}")
    (folder / "checkpoint_manager_snapshot.json").write_text("{}")
    first, last = (Checkpoint((folder / name).path, folder.fs) for name in ("checkpoint_1", "checkpoint_3"))
    _drop_strays(run, SimpleNamespace(checkpoint=last, best_checkpoints=[(first, {})]))
    assert names(folder) == ["checkpoint_1", "checkpoint_3", "checkpoint_manager_snapshot.json"]
    _drop_strays(run, SimpleNamespace(checkpoint=last, best_checkpoints=None))
    assert names(folder) == ["checkpoint_3", "checkpoint_manager_snapshot.json"]


@pytest.mark.parametrize(
    ("text", "stays"), [("", False), ('{"ray_version": "2.6', False), ('{"checkpoint_results": []}', True)]
)
def test_a_list_of_checkpoints_that_was_cut_short_does_not_stop_the_next_training(
    run: Run, text: str, *, stays: bool
) -> None:
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

    assert SNAPSHOT == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    folder = run.realign.place / CHECKPOINTS
    (folder / "checkpoint_1" / "cursor.json").write_text("{}")
    _drop_damaged_snapshot(run)  # none there: nothing to do
    (folder / SNAPSHOT).write_text(text)
    _drop_damaged_snapshot(run)
    assert (folder / SNAPSHOT).exists() == stays
    assert "checkpoint_1" in names(folder)
