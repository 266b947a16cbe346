"""What is left of a training's checkpoints once it is over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from trace_ray.artifacts import Run
from trace_ray.config import StorageConfig
from trace_ray.realign.stage import CHECKPOINTS, _drop_strays
from trace_ray.storage import locate


def test_what_a_killed_worker_could_not_report_is_deleted(tmp_path: Path) -> None:
    from ray.train import Checkpoint

    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    folder = tmp_path / "run" / "realign" / CHECKPOINTS
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        (folder / name).mkdir(parents=True)
        (folder / name / "cursor.json").write_text("{}")
    (folder / "checkpoint_manager_snapshot.json").write_text("{}")
    last = Checkpoint(str(folder / "checkpoint_3"))
    _drop_strays(
        run, SimpleNamespace(checkpoint=last, best_checkpoints=[(Checkpoint(str(folder / "checkpoint_1")), {})])
    )
    left = sorted(place.name for place in folder.iterdir())
    assert left == ["checkpoint_1", "checkpoint_3", "checkpoint_manager_snapshot.json"]
    _drop_strays(run, SimpleNamespace(checkpoint=last, best_checkpoints=None))
    assert (folder / "checkpoint_3" / "cursor.json").exists()
