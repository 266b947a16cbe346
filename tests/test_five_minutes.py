"""README's path on one's own data: files as it shows them, commands as it shows them, a report within ten minutes."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks, commands

LIMIT_S = 600
PATH = [command.text for command in commands(ROOT / "README.md") if "my.yaml" in command.text]


def test_the_path_is_four_commands() -> None:
    assert [shlex.split(text)[1] for text in PATH] == ["init", "check", "plan", "run"]


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
def test_a_report_on_ones_own_pairs_within_ten_minutes(tmp_path: Path) -> None:
    """`make smollm2` is not counted, nor is the plan, which times the models: the same command may be left out."""
    (row,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "json"]
    (settings,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "yaml"]
    rng = random.Random(0)
    words = row.replace('"', "").split()
    with (tmp_path / "pairs.jsonl").open("w") as pairs:
        pairs.write(row)
        for number in range(79):
            long, short = (" ".join(rng.choices(words, k=k)).replace("{", "").replace("}", "") for k in (60, 20))
            sides = [long, short] if number % 3 else [short, long]
            made = {"prompt": f"Question {number}?", "chosen": sides[0], "rejected": sides[1]}
            pairs.write(json.dumps(made) + "\n")
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = os.environ | {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"}
    took = {}
    for text in PATH:
        began = time.monotonic()
        done = subprocess.run(shlex.split(text), cwd=tmp_path, env=environment, capture_output=True, check=False)
        took[shlex.split(text)[1]] = time.monotonic() - began
        assert done.returncode == 0, (text, done.stderr[-2000:])
        if "init" in text:
            assert settings in (tmp_path / "my.yaml").read_text()
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    print({name: round(seconds) for name, seconds in took.items()})
    assert took["init"] + took["check"] + took["run"] <= LIMIT_S, took
