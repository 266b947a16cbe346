"""Real trainings that are sick, each in its way, and what is said of it: by an error, or on terminal, in metrics and report.

A Trainer on DeepSpeed makes them one after the other in one process; none needs a processor's rounding to be what it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.realign import handmade
from tests.support.ranks import run_ranks
from trace_ray.config import Config, ObjectiveConfig, StorageConfig
from trace_ray.config.load import dump_config
from trace_ray.realign.watch import steps_shown
from trace_ray.report.sections.training import TrainingSection, training_section
from trace_ray.report.sections.warnings import _of_training
from trace_ray.runs.alarms import ALARMS, UNWEIGHED, alarms
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.storage.location import locate

LIMIT = 0.02
"""A norm that each gradient of the tiny model is above, and less than a thousandfold."""
U2A = ObjectiveConfig(weights="u2a")
"""Its later rounds start far from the reference, so that the first step may be."""
SICK: dict[str, tuple[dict[str, Any], dict[str, Any], ObjectiveConfig | None]] = {
    "still": ({"categories": ("PUNISH",), "shift": 1e6}, {"epochs": 9}, U2A),
    "rate": ({}, {"epochs": 9, "learning_rate": 1e30}, None),
    "clipped": ({"weights": {"PUNISH": 0.0}}, {"epochs": 9, "max_grad_norm": LIMIT, "learning_rate": 1e-4}, None),
    "raised": (
        {"categories": ("INVERT",)},
        {"epochs": 9, "learning_rate": 3e-2},
        ObjectiveConfig(INVERT=handmade.sft("rejected")),
    ),
}
"""How its run is made, what it is trained with, and by which objective."""


@dataclass(frozen=True)
class Provoked:
    """A training that is over, and the mistake at which it stopped; empty where it went to its end."""

    run: Run
    config: Config
    said: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return training_figures(self.run)


def worker(jobs: list[dict[str, Any]]) -> None:
    """Trains each job and writes its mistake."""
    import torch

    from trace_ray.config.load import load_config
    from trace_ray.errors import UserError
    from trace_ray.realign.loop import Trainer
    from trace_ray.realign.setup import prepare_process

    configs = [load_config([job["config"]]) for job in jobs]
    prepare_process(configs[0].realign)
    torch.distributed.init_process_group("gloo")
    for job, config in zip(jobs, configs, strict=True):
        trainer, said = Trainer(Run(locate(job["run"], StorageConfig())), config, 0, 1), ""
        try:
            trainer.run(trainer.tell)
            trainer.write_metrics()
        except UserError as mistake:
            said = str(mistake)
        Path(job["out"]).write_text(said)


@pytest.fixture(scope="module")
def provoked(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Provoked]:
    folder = tmp_path_factory.mktemp("provoked")
    model, jobs, made = handmade.tiny_model(folder / "model"), [], {}
    for name, (rows, realign, objective) in SICK.items():
        config = handmade.tiny_config(model, objective, **realign)
        made[name] = (handmade.make_run(folder / name, config, **rows), config)
        (folder / f"{name}.yaml").write_text(dump_config(config))
        out = str(folder / f"{name}.said")
        jobs.append({"run": str(folder / name), "config": str(folder / f"{name}.yaml"), "out": out})
    run_ranks(worker, (jobs,), 1, folder)
    return {name: Provoked(run, config, (folder / f"{name}.said").read_text()) for name, (run, config) in made.items()}


def test_a_gradient_of_0_stops_a_training(provoked: Mapping[str, Provoked]) -> None:
    """What is suppressed is a million nats down: npo's slope there is 0 in any arithmetic."""
    still = provoked["still"]
    assert still.said.startswith("realign.learning_rate: 0.01: the gradient was exactly 0 for 10 steps, up to step 10")
    assert [row["grad_norm"] for row in still.rows] == [0.0] * 10


def test_a_rate_of_1e30_stops_a_training(provoked: Mapping[str, Provoked]) -> None:
    """How it dies is the processor's: figures that are not finite, gradients of 0, or all but nothing left of them."""
    said, rows = provoked["rate"].said, provoked["rate"].rows
    assert said.startswith("realign.learning_rate: 1e+30: ")
    causes = ("is not finite at step", "exactly 0 for 10", "clipped to less than a thousandth", "stood still for 10")
    assert any(cause in said for cause in causes), said
    assert 1 <= len(rows) < rows[0]["steps"], "the figures up to there are written"


def test_a_category_without_weight_and_every_step_clipped_are_in_the_metrics(provoked: Mapping[str, Provoked]) -> None:
    sick = provoked["clipped"]
    assert sick.said == ""
    first = sick.rows[0]
    assert (first[UNWEIGHED], list(first[ALARMS])) == (["PUNISH"], ["PUNISH unweighed"])
    assert all("PUNISH/pairs" not in row for row in sick.rows)
    told = {row["step"]: row[ALARMS]["clipped"] for row in sick.rows if "clipped" in row.get(ALARMS, {})}
    assert list(told) == [22], "twenty steps after a warm-up of two, and once"
    norms = [row["grad_norm"] for row in sick.rows[2:22]]
    assert min(norms) > LIMIT
    least, most, middle = (f"{of(norms):.3g}" for of in (min, max, statistics.median))
    assert f"from gradients of norm {least} to {most} (median {middle})" in told[22]


def test_alarms_are_told_on_the_terminal_once_the_last_steps_too(
    provoked: Mapping[str, Provoked], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (provoked["clipped"].run.realign.place / "metrics.jsonl").read_text()
    run = Run(locate(str(tmp_path), StorageConfig()))
    for resumed in (False, True):
        with steps_shown(run):
            (run.realign.place / "metrics.jsonl").write_text(written)
        said = capsys.readouterr().err
        assert (said.count("realign, step 1: PUNISH: no pair has a weight above 0"), resumed) in ((1, False), (0, True))
        assert said.count("realign, step 22: each of the last 20 steps was clipped") == (0 if resumed else 1)


def test_alarms_are_in_the_report_the_clipping_as_a_note(provoked: Mapping[str, Provoked]) -> None:
    sick = provoked["clipped"]
    section = training_section(sick.run, sick.config.objective, 9)
    assert isinstance(section, TrainingSection)
    unweighed, clipped = _of_training(section)
    assert (unweighed.level, clipped.level) == ("bad", "note")
    assert unweighed.text.startswith("Training, from step 1: PUNISH: no pair has a weight above 0")
    assert clipped.text.startswith("Training, from step 22: each of the last 20 steps was clipped")
    assert clipped.remedy.startswith("where the loss falls leave it, else tune realign.learning_rate")


def test_of_a_response_that_is_only_raised_the_log_ratio_is_watched(provoked: Mapping[str, Provoked]) -> None:
    """sft alone: 0 at the first step, as model and reference are one, then above it."""
    raised = provoked["raised"]
    ratios = [row["INVERT/reward_raised"] / raised.config.objective.beta for row in raised.rows]
    assert ratios[0] == pytest.approx(0.0, abs=1e-3)
    assert ratios[-1] > 0.1
    assert not alarms(raised.rows, raised.config.objective, raised.config.realign)
