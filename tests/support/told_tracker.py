"""A tracker of another package, as ``realign.trackers`` names it: what it is told is lines of a file beside the run's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLUGIN = "tests.support.told_tracker:Lines"
_FILE = "told-by-plugin.jsonl"


class Lines:
    """Takes figures by step; ``before`` is called first, and may raise."""

    def __init__(self, place: str, run_name: str, _first_step: int) -> None:
        self.file, self.run_name = Path(place) / _FILE, run_name

    @staticmethod
    def before(step: int) -> None:
        """Called with each step that is told."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.before(step)
        with self.file.open("a") as file:
            file.write(json.dumps({"run": self.run_name, "step": step, **figures}) + "\n")

    def flush(self) -> None:
        """Each line is written as it comes."""


def told(realign: Path, part: str) -> list[dict[str, Any]]:
    """Returns what was told under the run's name and ``/part``; realign: the folder of that name."""
    lines = [json.loads(line) for line in (realign / _FILE).read_text().splitlines()]
    return [line for line in lines if line["run"].endswith(f"/{part}")]
