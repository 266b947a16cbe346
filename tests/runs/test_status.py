"""How far a run is: what its driver says at each beat, and what an unfinished stage has left piece by piece."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.config import StorageConfig
from trace_ray.runs.artifacts import GENERATED, RESPONSES, SCORES, WORK, Run
from trace_ray.runs.lock import LOCK, driver_lock
from trace_ray.runs.status import DRIVER, State, all_done, status
from trace_ray.runtime.progress import Meter, doing, working
from trace_ray.storage.location import locate

BEAT = 0.05


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    if request.param == "local":
        return Run(locate(str(tmp_path / "run"), StorageConfig()))
    return Run(locate(f"s3://lake/{uuid.uuid4().hex}", request.getfixturevalue("s3")))


class Asked:
    """What the lock is told at each beat; once it asks again, what it was told before is written."""

    def __init__(self, say: Callable[[], str]) -> None:
        self.say, self.times, self.again = say, 0, threading.Event()

    def __call__(self) -> str:
        self.times += 1
        if self.times > 1:
            self.again.set()
        return self.say()


def test_the_driver_says_how_far_it_is(run: Run) -> None:
    asked = Asked(doing)
    with working("triage"), Meter("triage: judge", 300) as meter:
        meter.advance(120)
        with driver_lock(run.place, BEAT, asked):
            assert asked.again.wait(20)
            name, state, facts = list(status(run))[-1]
    assert (name, state) == (DRIVER, "at work")
    assert facts["doing"].startswith("triage: judge: 120/300 rows, ")
    assert ", ETA " in facts["doing"]
    assert facts["pid"] == os.getpid()
    assert 0 <= facts["heard_s"] < 60
    assert DRIVER not in [name for name, _, _ in status(run)]


def test_what_is_innermost_is_told() -> None:
    assert doing() == ""
    with working("realign"):
        assert doing() == "realign"
        with Meter("realign", 10, "steps"):
            assert doing().startswith("realign: 0/10 steps")
        assert doing() == "realign"
    assert doing() == ""


def test_a_killed_driver_is_said_to_be_gone(tmp_path: Path) -> None:
    body = (
        "import os, signal\nfrom trace_ray.config import StorageConfig\nfrom trace_ray.runs.lock import driver_lock\n"
        "from trace_ray.storage.location import locate\n"
        f"with driver_lock(locate({str(tmp_path)!r}, StorageConfig())):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", body], check=False).returncode == -9
    run = Run(locate(str(tmp_path), StorageConfig()))
    run.triaged.begin({})
    assert [(name, state) for name, state, _ in status(run)][-1] == (DRIVER, "gone")
    said = CliRunner().invoke(app, ["status", "--run", str(tmp_path)])
    assert "gone" in said.stdout


def test_a_driver_of_a_later_version_that_says_more_is_understood(tmp_path: Path) -> None:
    record = {"owner": "o", "beat": 7, "host": "node-7", "machine": "other boot", "pid": 4, "born": "1", "mood": "good"}
    (tmp_path / LOCK).write_text(json.dumps(record | {"doing": "impact: scores: 3/9 rows, 1.0/s, ETA 6 s"}))
    run = Run(locate(str(tmp_path), StorageConfig()))
    assert list(status(run))[-1][1] == "at work"
    (tmp_path / "config.yaml").write_text("")
    said = " ".join(CliRunner().invoke(app, ["status", "--run", str(tmp_path)]).stdout.split())
    assert "impact: scores: 3/9 rows, 1.0/s, ETA 6 s (pid 4 on node-7, heard 0 s ago)" in said


@pytest.mark.parametrize("text", ["{half", "[1, 2]", '{"owner": "o"}'])
def test_an_unreadable_record_is_no_driver(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    assert DRIVER not in [name for name, _, _ in status(Run(locate(str(tmp_path), StorageConfig())))]


def test_an_unfinished_stage_says_what_it_has_left(run: Run) -> None:
    for artifact in (run.triaged, run.impact, run.evaluation, run.realign, run.rejects, run.model):
        artifact.begin({})
    assert {name: facts for name, state, facts in status(run) if state == "begun"} == {
        "rejects": {"parts": 0},
        "triaged": {"blocks judged": 0, "decided": 0},
        "impact": {"shards scored": 0},
        "realign": {"step": 0, "steps": "?"},
        "model": {},
        "evaluation": {"chunks answered": 0, "judged": 0},
    }
    for step, blocks in (("judge", 3), ("decide", 1)):
        for block in range(blocks):
            (run.triaged.place / WORK / step / f"block-{block:06d}.json").write_text("{}")
    for file in (run.impact.place / SCORES / "part-0.json", run.impact.place / SCORES / "part-1.json"):
        file.write_text("{}")
    (run.rejects.place / "part-0.parquet").write_text("")
    for name, parts in ((GENERATED, 4), (RESPONSES, 2)):
        for part in range(parts):
            (run.evaluation.place / name / f"part-{part}.parquet").write_text("")
    found = {name: facts for name, _, facts in status(run)}
    assert found["triaged"] == {"blocks judged": 3, "decided": 1}
    assert found["impact"] == {"shards scored": 2}
    assert found["rejects"] == {"parts": 1}
    assert found["evaluation"] == {"chunks answered": 4, "judged": 2}


def test_a_driver_at_work_keeps_no_watch_waiting() -> None:
    done: list[State] = [(name, "done", {}) for name in ("rejects", "triaged", "report.html")]
    assert all_done([*done, (DRIVER, "at work", {})])
    assert not all_done([*done, ("model", "begun", {})])
