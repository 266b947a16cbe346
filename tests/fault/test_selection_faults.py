"""A selection is struck while candidates are measured: what is kept, and what was measured, are the undisturbed run's.

The demo's world with rules as judges, a local Ray in each driver's own process; only processes below a driver are killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from tests.support.told_tracker import PLUGIN, told
from trace_ray.config import StorageConfig
from trace_ray.config.sources import conf_folder
from trace_ray.realign.candidates import candidates
from trace_ray.runs.artifacts import Run
from trace_ray.runs.validations import Validation, validations
from trace_ray.storage.location import locate
from trace_ray.synth.demo import write_corpus

pytestmark = pytest.mark.timeout(3600)

ROOT = Path(__file__).parents[2]
PAIRS = 240
SETTINGS = [
    *("triage.judge={backend: rules}", "triage.audit_labels=''", "objective.weights=uniform"),
    *(
        "realign.num_cpus=1",
        "realign.epochs=3",
        "realign.learning_rate=2e-3",
        "realign.checkpoint_steps=5",
        f"realign.trackers=[{PLUGIN}]",
    ),
    *("realign.select.steps=12", "realign.select.prompts=32", "evaluate.drift_pairs=24"),
]


class Selected:
    """A folder of runs that share corpus, triage and scores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.overrides = [*write_corpus(locate(str(folder / "corpus"), StorageConfig())), *SETTINGS]
        train = folder / "corpus" / "train.jsonl"
        train.write_text("".join(train.read_text().splitlines(keepends=True)[:PAIRS]))
        for stage in ("triage", "impact"):
            assert self.start(stage, folder / "scored").wait(timeout=900) == 0, self.said(folder / "scored")

    def start(self, stage: str, run: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "trace_ray.cli", stage, "-c", str(conf_folder() / "examples" / "demo.yaml")]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with run.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--run", str(run), *self.overrides, *more],
                env={**os.environ, "PYTHONPATH": paths},
                stdout=log,
                stderr=log,
            )

    def said(self, run: Path) -> str:
        return run.with_suffix(".log").read_text()[-3000:]

    def copy(self, name: str) -> Path:
        run = self.folder / name
        shutil.copytree(self.folder / "scored", run)
        return run

    def ends(self, driver: subprocess.Popen[bytes], run: Path) -> None:
        assert driver.wait(timeout=900) == 0, self.said(run)


def opened(run: Path) -> Run:
    return Run(locate(str(run), StorageConfig()))


def choice(run: Path) -> dict[str, Any]:
    facts = opened(run).realign.manifest()
    return {"step": facts["selection"]["step"], "checkpoint": facts["checkpoint"]}


def measured(run: Path) -> list[Validation]:
    return validations(opened(run))


def measuring(run: Path) -> bool:
    """Whether a trained candidate's answers are there and its figures are not."""
    place = run / "realign" / "selection"
    answered = {file.name[5:16] for file in place.glob("generated/part-step-*.parquet")} - {"step-000000"}
    return any(not (place / "validations" / f"{name}.json").exists() for name in answered)


def below(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return list(psutil.Process(driver.pid).children(recursive=True))


def wait_until(holds: Callable[[], Any], driver: subprocess.Popen[bytes], drills: Selected, run: Path) -> None:
    deadline = time.monotonic() + 600
    while not holds():
        assert driver.poll() is None, f"over before the strike: {drills.said(run)}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_all(driver: subprocess.Popen[bytes]) -> None:
    every = below(driver)
    driver.kill()
    for process in every:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    driver.wait()


def named(driver: subprocess.Popen[bytes], *words: str) -> list[psutil.Process]:
    """Processes below a driver whose name, as Ray gives it, holds one of the words."""
    found = []
    for process in below(driver):
        with suppress(psutil.NoSuchProcess):
            if any(word in " ".join(process.cmdline()) for word in words):
                found.append(process)
    return found


def measurers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return named(driver, "AnswerJudge", "Worker.work")


def steps_made(run: Path) -> list[int]:
    """The steps of a training as its metrics have them."""
    return [json.loads(line)["step"] for line in (run / "realign" / "metrics.jsonl").read_text().splitlines()]


def assert_same(run: Path, undisturbed: Path) -> None:
    assert choice(run) == choice(undisturbed)
    mine, theirs = measured(run), measured(undisturbed)
    assert [(candidate.step, candidate.tpa, candidate.prompts) for candidate in mine] == [
        (candidate.step, candidate.tpa, candidate.prompts) for candidate in theirs
    ]
    assert [candidate.drift for candidate in mine] == pytest.approx(
        [candidate.drift for candidate in theirs], rel=1e-2, abs=1e-4
    )
    steps = [candidate.step for candidate in mine]
    assert [line["step"] for line in told(run / "realign", "dev")] == steps, "the tracker is told each once"
    curve = [json.loads(line) for line in (run / "realign" / "validations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == steps
    assert [row["step"] for row in curve if row["dev_kept"]][-1] == choice(run)["step"]
    exported = load_file(run / "model" / "adapter" / "adapter_model.safetensors")
    kept = load_file(run / "realign" / choice(run)["checkpoint"] / "adapter" / "adapter_model.safetensors")
    assert all(bool((exported[name] == value).all()) for name, value in kept.items())


@pytest.fixture(scope="module")
def drills(tmp_path_factory: pytest.TempPathFactory) -> Selected:
    return Selected(tmp_path_factory.mktemp("selection"))


@pytest.fixture(scope="module")
def undisturbed(drills: Selected) -> Path:
    run = drills.copy("undisturbed")
    drills.ends(drills.start("realign", run), run)
    return run


@pytest.mark.slow
def test_a_selection_measures_every_candidate_and_exports_the_one_it_keeps(undisturbed: Path) -> None:
    steps = [candidate.step for candidate in measured(undisturbed)]
    last = steps_made(undisturbed)[-1]
    assert steps == sorted({0, *range(12, last + 1, 12), last})
    best = max(measured(undisturbed), key=lambda candidate: (candidate.tpa["all"], -candidate.step))
    assert best.tpa["all"] > measured(undisturbed)[0].tpa["all"], "the drills would compare a choice of nothing"
    assert choice(undisturbed)["step"] == best.step
    assert measured(undisturbed)[0].drift == 0 < measured(undisturbed)[-1].drift
    assert_same(undisturbed, undisturbed)


@pytest.mark.slow
def test_a_killed_driver_changes_no_choice(drills: Selected, undisturbed: Path) -> None:
    run = drills.copy("driver")
    driver = drills.start("realign", run)
    wait_until(lambda: measuring(run), driver, drills, run)
    kill_all(driver)
    assert not (run / "realign" / "_DONE").exists()
    drills.ends(drills.start("realign", run), run)
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_a_killed_measuring_process_changes_no_choice(drills: Selected, undisturbed: Path) -> None:
    run = drills.copy("measurer")
    driver = drills.start("realign", run)
    wait_until(lambda: measuring(run) and measurers(driver), driver, drills, run)
    for process in measurers(driver):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    drills.ends(driver, run)
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_a_training_worker_killed_while_a_candidate_is_measured_changes_no_choice(
    drills: Selected, undisturbed: Path
) -> None:
    """It alone dies: driver and measurer go on, and the training from its last checkpoint.

    The training takes seconds, measuring a minute: it stands still from its first candidate to the strike.
    """
    run = drills.copy("trainer")
    driver = drills.start("realign", run)
    wait_until(lambda: candidates(opened(run)) and named(driver, "RayTrainWorker"), driver, drills, run)
    trainers = named(driver, "RayTrainWorker")
    for process in trainers:
        process.suspend()
    wait_until(lambda: measuring(run), driver, drills, run)
    seen = steps_made(run)
    for process in trainers:
        process.kill()
    drills.ends(driver, run)
    assert 12 <= seen[-1] < steps_made(undisturbed)[-1], "it was killed after its first candidate and before its end"
    assert steps_made(run) == steps_made(undisturbed)
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_where_patience_runs_out_the_training_ends_and_a_run_killed_then_ends_with_the_same(drills: Selected) -> None:
    """No candidate may be kept under such a budget: patience runs out with the second, whatever was trained until then."""
    impatient = ["realign.select.patience=2", "realign.select.max_drift=1e-9", "realign.epochs=200"]
    run = drills.copy("patience")
    driver = drills.start("realign", run, *impatient)
    wait_until((run / "realign" / "selection" / "stop.json").exists, driver, drills, run)
    kill_all(driver)
    drills.ends(drills.start("realign", run, *impatient), run)
    facts = opened(run).realign.manifest()["selection"]
    assert (facts["step"], facts["stopped"]) == (0, 24)
    planned = json.loads((run / "realign" / "metrics.jsonl").read_text().splitlines()[0])["steps"]
    assert 24 <= opened(run).realign.manifest()["counts"]["steps"] < planned
