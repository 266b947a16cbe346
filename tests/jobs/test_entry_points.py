"""The entry points are the command line's commands, and exit codes get through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def test_every_stage_of_the_contract_has_one() -> None:
    assert JOBS == ["compare", "evaluate", "impact", "realign", "run", "triage"]


@pytest.mark.parametrize("job", JOBS)
def test_a_mistake_is_exit_code_2(job: str) -> None:
    command = [sys.executable, f"jobs/{job}.py", "-c", "no-such-file.yaml", "--run", "/nowhere"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2, told.stderr
