"""SIGKILL of the driver in the middle of a stage: the next call completes, and the result is the undisturbed run's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.killing import kill_when
from trace_ray.config import StorageConfig
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

pytestmark = pytest.mark.slow

ARGUMENTS = [
    "triage.judge.backend=rules",
    "triage.judge.model=''",
    "impact.gold_size=9",
    "impact.shard_rows=12",
    "realign.learning_rate=1e-4",
    "realign.batch=4",
    "realign.checkpoint_steps=5",
    "evaluate.prompts=4",
]
DEADLINE_SECONDS = 400.0


def command(run: Path) -> list[str]:
    return [sys.executable, "-m", "trace_ray.cli", "demo", *ARGUMENTS, "corpus.limit=160", "--run", str(run)]


def finish(run: Path) -> None:
    subprocess.run(command(run), check=True, timeout=DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run)
    return run


def scored_rows(run: Path) -> dict[int, tuple[str, float, float | None]]:
    table = Run(locate(str(run), StorageConfig())).scored.read(["row", "category", "weight", "impact"])
    return {row["row"]: (row["category"], row["weight"], row["impact"]) for row in table.to_pylist()}


def assert_same(run: Path, undisturbed: Path) -> None:
    counts = Run(locate(str(run), StorageConfig())).triaged.manifest()["counts"]
    assert counts["rows_in"] == counts["triaged"] + counts["rejects"] == 160 + 128
    mine, theirs = scored_rows(run), scored_rows(undisturbed)
    assert mine.keys() == theirs.keys()
    for row, (category, weight, impact) in theirs.items():
        assert mine[row][0] == category
        assert mine[row][1] == pytest.approx(weight, rel=1e-4)
        assert mine[row][2] == (impact if impact is None else pytest.approx(impact, rel=1e-4))
    file = Path("model") / "adapter" / "adapter_model.safetensors"
    trained, expected = load_file(run / file), load_file(undisturbed / file)
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=2e-5)


def test_killed_during_impact(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    scores = run / "impact" / "scores"
    kill_when(command(run), lambda: any(scores.glob("part-*.json")), DEADLINE_SECONDS)
    assert not (run / "scored" / "_DONE").exists()
    finished_before = {path.name: path.stat().st_mtime_ns for path in scores.glob("part-*.json")}
    finish(run)
    for name, written in finished_before.items():
        assert (scores / name).stat().st_mtime_ns == written, "a finished shard was redone"
    assert_same(run, undisturbed)


def test_killed_during_training(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    checkpoints = run / "realign" / "checkpoints"
    kill_when(
        command(run), lambda: any(checkpoints.glob("checkpoint_*/adapter/adapter_model.safetensors")), DEADLINE_SECONDS
    )
    assert not (run / "realign" / "_DONE").exists()
    finish(run)
    assert_same(run, undisturbed)
