"""`import trace_ray` stays light, and who may import whom holds: the design's arrows, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import trace_ray

PACKAGE = Path(trace_ray.__file__).parent
MEET_ON_DISK = {"triage", "impact", "realign", "evaluate", "report", "compare"}
"""Areas that read one another's artefacts, never one another's code."""

EDGES = {
    "ray": {
        "cluster/connection.py",
        "cluster/own_job.py",
        "realign/loop.py",
        "realign/ray_train.py",
        "realign/worker.py",
        "runtime/metrics.py",
    },
    "vllm": {"model/engine.py"},
    "deepspeed": {"realign/setup.py", "realign/weights.py", "realign/head.py"},
}
"""Heavy libraries and the only files that import them; Ray also in each area's stage files."""


def imports(file: Path) -> Iterator[str]:
    """Yields the dotted names of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_import_is_quick_and_free_of_heavy_libraries() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import trace_ray; seconds = time.perf_counter() - t;"
        "heavy = {'ray', 'torch', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy; assert seconds < 1, seconds"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_areas_meet_on_disk_alone() -> None:
    seen = {
        (area, name.split(".")[1])
        for area in MEET_ON_DISK
        for file in (PACKAGE / area).rglob("*.py")
        for name in imports(file)
        if name.startswith("trace_ray.")
    }
    assert ("report", "runs") in seen  # what is looked for would be found
    assert [pair for pair in seen if pair[1] in MEET_ON_DISK - {pair[0]}] == []


def test_heavy_libraries_are_imported_at_the_edge_alone() -> None:
    for library, allowed in EDGES.items():
        found = {
            file.relative_to(PACKAGE).as_posix()
            for file in PACKAGE.rglob("*.py")
            if library in {name.split(".")[0] for name in imports(file)}
        }
        stages = {name for name in found if library == "ray" and name.endswith("stage.py")}
        assert found - stages == allowed, library
