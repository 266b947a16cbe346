"""What is left of a training's checkpoints once it is over, on a disk and in S3."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest

from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.realign.checkpoints import CHECKPOINTS, SNAPSHOT, damage, drop_damaged, drop_strays
from trace_ray.realign.export_stage import trained_place
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location, locate


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
    drop_strays(run, SimpleNamespace(checkpoint=last, best_checkpoints=[(first, {})]))
    assert names(folder) == ["checkpoint_1", "checkpoint_3", "checkpoint_manager_snapshot.json"]
    drop_strays(run, SimpleNamespace(checkpoint=last, best_checkpoints=None))
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
    drop_damaged(run)  # none there: nothing to do
    (folder / SNAPSHOT).write_text(text)
    drop_damaged(run)
    assert (folder / SNAPSHOT).exists() == stays
    assert "checkpoint_1" in names(folder)


def listed(folder: Location, *names: str) -> dict[str, Any]:
    """Writes whole checkpoints, and Ray Train's list of them as Ray Train writes it."""
    for name in names:
        (folder / name / "weights.safetensors").write_bytes(b"weights")
        (folder / name / "deepspeed" / "rank_0.pt").write_bytes(b"shard")
        files = {"weights.safetensors": 7, "deepspeed/rank_0.pt": 5}
        (folder / name / "cursor.json").write_text(json.dumps({"step": 1, "files": files}))
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {}} for name in names]
    state = {"checkpoint_results": results, "checkpoint_report_indices": list(range(len(names)))}
    state |= {"latest_checkpoint_result": results[-1], "current_report_index": len(names)}
    (folder / SNAPSHOT).write_text(json.dumps(state))
    return state


DAMAGES: dict[str, tuple[str, bytes | None, str]] = {
    "emptied": ("weights.safetensors", b"", "weights.safetensors has 0 of 7 bytes"),
    "cut short": ("deepspeed/rank_0.pt", b"sha", "deepspeed/rank_0.pt has 3 of 5 bytes"),
    "a file gone": ("deepspeed/rank_0.pt", None, "deepspeed/rank_0.pt is gone"),
    "its cursor gone": ("cursor.json", None, "no cursor.json"),
    "its cursor cut short": ("cursor.json", b'{"st', "cursor.json is cut short"),
    "all of it": ("", None, "no such folder"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_left_for_the_one_before(
    run: Run, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run.realign.place / CHECKPOINTS
    state = listed(folder, "checkpoint_1", "checkpoint_2")
    drop_damaged(run)
    assert json.loads((folder / SNAPSHOT).read_text()) == state
    file, content, why = DAMAGES[name]
    place = folder / "checkpoint_2" / file if file else folder / "checkpoint_2"
    if not file:
        place.delete_folder()
    elif content is None:
        place.fs.delete_file(place.path)
    else:
        place.write_bytes(content)
    assert damage(folder / "checkpoint_2") == why
    drop_damaged(run)
    said = " ".join(capfd.readouterr().err.split())
    assert why in said
    assert "goes on from checkpoint_1" in said
    left = json.loads((folder / SNAPSHOT).read_text())
    assert left["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_1"
    assert left["checkpoint_results"] == state["checkpoint_results"][:1]
    assert left["checkpoint_report_indices"] == [0]
    assert left["current_report_index"] == 2


def test_where_no_checkpoint_is_whole_training_begins_anew(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run.realign.place / CHECKPOINTS
    listed(folder, "checkpoint_1")
    (folder / "checkpoint_1" / "weights.safetensors").write_bytes(b"")
    drop_damaged(run)
    assert not (folder / SNAPSHOT).exists()
    assert "begins anew" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("lost", ["emptied", "deleted"])
def test_a_trained_checkpoint_that_is_gone_is_named_and_none_before_it_is_exported(run: Run, lost: str) -> None:
    folder = run.realign.place / CHECKPOINTS
    listed(folder, "checkpoint_1", "checkpoint_2")
    run.realign.begin({})
    run.realign.publish(counts={}, seconds=0.0, checkpoint=f"{CHECKPOINTS}/checkpoint_2")
    assert trained_place(run).path == (folder / "checkpoint_2").path
    if lost == "deleted":
        (folder / "checkpoint_2").delete_folder()
    else:
        (folder / "checkpoint_2" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint_2: .*restore it, or delete .*_DONE"):
        trained_place(run)
