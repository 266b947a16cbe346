"""What a run's folder is left like when a run is refused or its disk is full. No stage gets far enough to need Ray."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trace_ray.artifacts import Run
from trace_ray.config import Config, StorageConfig
from trace_ray.config_load import load_config
from trace_ray.errors import StaleRunError, UserError
from trace_ray.pipeline import run_stages, user_error_in
from trace_ray.storage import locate


@pytest.fixture
def config(tmp_path: Path) -> Config:
    pair = {"prompt": "p", "chosen": "a long answer", "rejected": "short"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    clause = "policy.clauses=[{id: brief, text: Be brief., rule: {max_words: 2}}]"
    return load_config([], [f"corpus.paths=['{tmp_path / 'pairs.jsonl'}']", clause, "triage.judge.backend=rules"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two pages: room for the driver's record, none for the configuration."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_refused_change_leaves_the_configuration_that_the_run_was_made_with(config: Config, tmp_path: Path) -> None:
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    run.triaged.begin({"triage.threshold": 0.9})
    run.write_config("as it was begun")
    with pytest.raises(StaleRunError):
        run_stages(run, config, ["triage"])
    assert (tmp_path / "run" / "config.yaml").read_text() == "as it was begun"
    assert not (tmp_path / "run" / "driver.json").exists()


def test_a_disk_that_is_full_from_the_start_is_one_line(config: Config, small_disk: Path) -> None:
    run = Run(locate(str(small_disk), StorageConfig()))
    with pytest.raises(UserError, match="the disk is full") as caught:
        run_stages(run, config, ["triage"])
    assert "\n" not in str(caught.value)
    assert [path.name for path in small_disk.iterdir() if not path.name.startswith(".")] == []


def wrapped(cause: Exception) -> dict[str, BaseException]:
    """What reaches the driver where a task, a training worker or Ray Train's controller met ``cause``; no Ray is started."""
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    return {
        "task": RayTaskError("score_rows", "a trace", cause).as_instanceof_cause(),
        "worker": WorkerGroupError("a trace", {1: UserExceptionWithTraceback(cause, "a trace")}),
        "controller": ControllerError(cause),
    }


@pytest.mark.parametrize("met_by", ["task", "worker", "controller"])
def test_a_full_disk_is_one_line_whoever_met_it(met_by: str) -> None:
    from ray import cloudpickle

    error = wrapped(OSError(errno.ENOSPC, "No space left on device"))[met_by]
    found = user_error_in(cloudpickle.loads(cloudpickle.dumps(error)))
    assert str(found).startswith("disk: no space left: the disk is full")
    assert user_error_in(wrapped(OSError(errno.EIO, "a broken disk"))[met_by]) is None
