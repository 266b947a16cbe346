"""The entry points are the command line's commands, and exit codes get through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def test_every_stage_of_the_contract_has_one() -> None:
    assert JOBS == ["compare", "evaluate", "impact", "realign", "run", "triage"]


@pytest.mark.parametrize("job", JOBS)
def test_a_mistake_is_exit_code_2_and_one_line_of_that_command(job: str) -> None:
    """From another folder, as the image's entry points are called; the mistake is one that only this command makes."""
    given = ["/nowhere/run"] if job == "compare" else ["-c", "no-such-file.yaml", "--run", "/nowhere/run"]
    told = start(job, *given)
    assert told.returncode == 2, told.stderr
    (line,) = told.stderr.splitlines()
    assert line.startswith(
        "trace-ray: /nowhere/run" if job == "compare" else "trace-ray: -c: no-such-file.yaml: no such"
    )


@pytest.mark.parametrize("job", JOBS)
def test_each_is_its_own_command(job: str) -> None:
    told = start(job, "--help")
    assert told.returncode == 0
    usage = " ".join(told.stdout.split())
    assert f"{job}.py {job} [OPTIONS]" in usage


def start(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
