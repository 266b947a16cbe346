"""What a run's folder is left like when a run is refused or its disk is full. No stage gets far enough to need Ray."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trace_ray.artifacts import Run
from trace_ray.config import Config, StorageConfig
from trace_ray.config_load import load_config
from trace_ray.errors import StaleRunError, UserError
from trace_ray.pipeline import run_stages
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
