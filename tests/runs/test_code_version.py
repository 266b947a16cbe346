"""The code that made a result, by its source."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version_of(folder: Path) -> str:
    code = "from trace_ray.runs.code_version import code_version; print(code_version())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, text=True, capture_output=True).stdout


def test_a_changed_line_is_another_version_and_a_copy_is_not(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "trace_ray", tmp_path / "trace_ray", ignore=shutil.ignore_patterns("__pycache__"))
    here = version_of(ROOT)
    assert version_of(tmp_path) == here
    (tmp_path / "trace_ray" / "conf").mkdir()
    (tmp_path / "trace_ray" / "conf" / "a.yaml").write_text("a: 1")
    assert version_of(tmp_path) == here
    (tmp_path / "trace_ray" / "objective" / "losses.py").open("a").write("# changed\n")
    changed = version_of(tmp_path)
    assert changed != here
    assert changed.startswith("0.1.0+")
