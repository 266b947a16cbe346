"""Lineage over runs that start from one another's models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trace_ray.config import StorageConfig
from trace_ray.runs.lineage import lineage


def merged(folder: Path) -> str:
    return str(folder / "model" / "merged")


def test_the_steps_before_a_run_first_one_first(make_run: Any, tmp_path: Path) -> None:
    make_run("one", "trace", 90.0, base_model="hub/id")
    make_run("two", "npo", 80.0, base_model=merged(tmp_path / "one"))
    steps = lineage(merged(tmp_path / "two"), StorageConfig())
    assert [(s["method"], s["base_model"]) for s in steps] == [("trace", "hub/id"), ("npo", merged(tmp_path / "one"))]
    assert steps[0]["tpa"] == {"base": 75.0, "realigned": 90.0}
    assert steps[0]["policy"]["name"] == "p"


def test_a_run_of_which_only_the_model_was_copied_is_a_step_all_the_same(make_run: Any, tmp_path: Path) -> None:
    run = make_run("one", "trace", 90.0, base_model="hub/id")
    run.triaged.place.delete_folder()
    (step,) = lineage(merged(tmp_path / "one"), StorageConfig())
    assert (step["method"], step["policy"]["name"]) == ("trace", "unknown: triaged/ is gone")


def test_other_models_have_no_steps(tmp_path: Path) -> None:
    assert lineage("HuggingFaceTB/SmolLM2-135M-Instruct", StorageConfig()) == []
    assert lineage(str(tmp_path / "model" / "merged"), StorageConfig()) == []


def test_a_circle_ends(make_run: Any, tmp_path: Path) -> None:
    make_run("one", "trace", 90.0, base_model=merged(tmp_path / "one"))
    assert len(lineage(merged(tmp_path / "one"), StorageConfig())) == 1
