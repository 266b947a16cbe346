"""The report's training section tells which step was kept, and what said that the training was sick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import ObjectiveConfig, StorageConfig
from trace_ray.report.live import live_state
from trace_ray.report.page import template
from trace_ray.report.plots.training import training_picture
from trace_ray.report.sections.training import TrainingSection, chosen_said, training_section
from trace_ray.report.sections.warnings import _of_training
from trace_ray.runs.alarms import ALARMS
from trace_ray.runs.artifacts import Run
from trace_ray.runs.status import status
from trace_ray.runs.validations import Validation, write_validation
from trace_ray.storage.location import locate

ALARM = "INVERT: the preferred response has sunk 12 nats below the reference: displaced; lower realign.learning_rate"


def measured(step: int, share: float) -> Validation:
    tpa, drift = {"all": share, "INVERT": share, "RETAIN": 80.0}, step / 100
    return Validation(step=step, adapter="", tpa=tpa, prompts={"all": 32}, drift=drift, seconds=30.0, tokens=500)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(locate(str(tmp_path), StorageConfig()))
    made.realign.begin({})
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "steps": 30,
            "tokens": 10,
            "grad_norm": 1.0,
            "lr": 1e-4,
            "INVERT/loss": 1 / step,
            "INVERT/pairs": 2,
        }
        for step in range(1, 31)
    ]
    rows[14][ALARMS] = {"INVERT displaced": ALARM}
    (made.realign.place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, share in ((0, 40.0), (10, 90.0), (20, 75.0)):
        write_validation(made, f"step-{step:06d}", measured(step, share))
    return made


def section(run: Run) -> TrainingSection:
    found = training_section(run, ObjectiveConfig(), 1)
    assert found is not None
    return found


def finish(run: Run, **facts: Any) -> None:
    told = {"step": 10, "stopped": None, "seconds": 90.0, "tokens": 1500, "share_of_training": 0.125} | facts
    run.realign.publish(counts={"steps": 30}, seconds=1.0, selection=told)


def test_the_kept_step_its_agreement_and_the_cost_are_said(run: Run) -> None:
    assert section(run).chosen == "", "nothing is chosen before the end"
    finish(run)
    said = section(run).chosen
    assert (
        "Step 10 is kept of 2 candidates: 90.0 % of the answers to 32 dev prompts comply, before training 40.0 %."
        in said
    )
    assert said.endswith("Choosing took 1 min 30 s (12.5 % of the time that the steps took) and 1,500 tokens.")
    drawn = {"training": training_picture(section(run))}
    assert said in template("training.html.jinja").render(training=section(run), pictures=drawn)


def test_a_choice_of_nothing_and_a_stop_are_said(run: Run) -> None:
    finish(run, step=0, stopped=20)
    assert "No candidate of 2 is better than the model before training, which is kept." in section(run).chosen
    assert "Patience ran out at step 20." in section(run).chosen


def test_agreement_and_drift_are_curves_of_report_and_watch(run: Run) -> None:
    curves = section(run).curves
    assert curves["compliant answers to dev prompts, %"]["all"] == [(0.0, 40.0), (10.0, 90.0), (20.0, 75.0)]
    assert set(curves["compliant answers to dev prompts, %"]) == {"all", "INVERT", "RETAIN"}
    assert curves["dev drift, nats a token"] == {"all": [(0.0, 0.0), (10.0, 0.1), (20.0, 0.2)]}
    assert "compliant answers to dev prompts" in training_picture(section(run)).label
    assert "dev tpa/all" in [drawn.title for drawn in live_state(run).curves]
    facts = {name: told for name, _, told in status(run)}
    assert facts["realign"] == {"step": 30, "steps": 30, "candidates measured": 3}


def test_a_scale_that_is_kept_is_told_with_its_share() -> None:
    told = {"step": 10, "stopped": None, "seconds": 1.0, "tokens": 9, "share_of_training": 0.1}
    rest: dict[str, Any] = {"adapter": "", "prompts": {"all": 9}, "drift": 0, "seconds": 1, "tokens": 1}
    measured = [Validation(step=step, tpa=share, **rest) for step, share in ((0, {"all": 40.0}), (10, {"all": 80.0}))]
    scaled = told | {"scale": 0.5, "dev_tpa_by_scale": {"0.5": 87.5, "1": 80.0}}
    assert "Its adapter is kept at scale 0.5, where 87.5 % comply." in chosen_said(scaled, measured)
    for whole in (told, scaled | {"scale": 1.0}):
        assert "at scale" not in chosen_said(whole, measured)


def test_a_run_without_selection_shows_none(tmp_path: Path, run: Run) -> None:
    (run.realign.place / "selection").delete_folder()
    assert "dev drift, nats a token" not in section(run).curves
    assert "candidates measured" not in {name: told for name, _, told in status(run)}["realign"]


def test_an_alarm_is_a_warning_with_its_step_and_its_remedy(run: Run) -> None:
    (caution,) = _of_training(section(run))
    assert caution.level == "bad"
    assert caution.text.startswith("Training, from step 15: INVERT: the preferred response has sunk 12 nats")
    assert caution.remedy == "lower realign.learning_rate"
