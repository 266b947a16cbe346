"""The report's look at a run's rows by real Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report.made_run import config_of
from tests.report.survey_oracle import random_run
from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import RayConfig
from trace_ray.report import stage
from trace_ray.report.page import render
from trace_ray.report.stage import run_report


@pytest.mark.slow
def test_tasks_make_the_page_that_one_process_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("report.sample=17", "report.top_pairs=9", "ray.local_cpus=2")
    run = random_run(tmp_path, seed=7, rule=True)
    here = render(run, config)
    ensure_ray(RayConfig(local_cpus=2))
    monkeypatch.setattr(stage, "TASKS_FROM", 0)
    looked: list[int] = []

    def noted(look: Callable[[Sequence[Any]], Any], parts: Sequence[Any]) -> Any:
        looked.append(len(parts))
        return original(look, parts)

    original = stage.by_parts
    monkeypatch.setattr(stage, "by_parts", noted)
    run_report(run, config)
    assert len(looked) == 5, "refused rows, triaged pairs, scored pairs, places of heavy pairs, texts"
    assert run.report.read_text() == here
