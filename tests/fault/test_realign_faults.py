"""Stage 3 loses workers, its driver and nodes; the samples seen and the weights equal the undisturbed run's.

Real Ray clusters in processes of their own; only processes below them are killed.
"""

from __future__ import annotations

import json
import os
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
import torch
from safetensors.torch import load_file

from tests.realign import handmade
from trace_ray.realign.checkpoints import SNAPSHOT

ROOT = Path(__file__).parents[2]

EPOCHS, CHECKPOINT, STEPS = 80, 10, 480


class Drill:
    """One run in a folder of its own."""

    def __init__(self, folder: Path, **rows: Any) -> None:
        self.folder, self.model = folder, handmade.tiny_model(folder / "model")
        handmade.make_run(folder / "run", self.config(), **rows)
        self.log = folder / "log"

    def config(self, **realign: Any) -> Any:
        """Steps as long as 0.05 s: a window of one keeps them small, many epochs make them last."""
        more = {"epochs": EPOCHS, "checkpoint_steps": CHECKPOINT, "learning_rate": 3e-3, "workers": 2} | realign
        return handmade.tiny_config(self.model, **more)

    def start(self, *arguments: str, **realign: Any) -> subprocess.Popen[bytes]:
        from trace_ray.config.load import dump_config

        config = self.folder / "config.yaml"
        config.write_text(dump_config(self.config(**realign)))
        script = Path(__file__).with_name("realign_driver.py")
        command = [sys.executable, str(script), str(self.folder / "run"), str(config), *arguments]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=self.log.open("ab"), stderr=subprocess.STDOUT)

    def finish(self, driver: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert driver.wait(timeout=600) == 0, self.log.read_text()[-3000:]
        said = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return dict(json.loads(said[-1]))  # a cluster that goes down may still speak after it

    def metrics(self) -> list[dict[str, Any]]:
        file = self.folder / "run" / "realign" / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "run" / "realign" / "checkpoints").glob("checkpoint_*/cursor.json"))

    def saved_by(self, workers: int) -> bool:
        """Whether Ray Train lists a checkpoint of so many workers; one not yet reported is lost with its workers."""
        folder = self.folder / "run" / "realign" / "checkpoints"
        try:
            listed = json.loads((folder / SNAPSHOT).read_text())["checkpoint_results"]
            cursors = [
                json.loads((folder / result["checkpoint_dir_name"] / "cursor.json").read_text()) for result in listed
            ]
        except (json.JSONDecodeError, FileNotFoundError):
            return False
        return any(cursor["workers"] == workers for cursor in cursors)

    def weights(self) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = load_file(
            self.folder / "run" / "model" / "adapter" / "adapter_model.safetensors"
        )
        return weights


def below(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process that the driver started, Ray's and its workers."""
    return list(psutil.Process(driver.pid).children(recursive=True))


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen[bytes], log: Path) -> Any:
    """Waits until the condition gives something, while the driver lives."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert driver.poll() is None, log.read_text()[-3000:]
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("waited for 300 s")


def train_workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for process in below(driver):
        with suppress(psutil.NoSuchProcess):  # many of Ray's are short
            if "RayTrainWorker" in " ".join(process.cmdline() or [process.name()]):
                found.append(process)
    return found


def kill_all(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the driver and, as when its machine is lost, to all that it started."""
    every = below(driver)
    driver.kill()
    for process in every:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    driver.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    drill = Drill(tmp_path_factory.mktemp("undisturbed"))
    drill.finish(drill.start())
    return drill


@pytest.fixture
def drill(tmp_path: Path) -> Drill:
    return Drill(tmp_path)


def assert_same(drill: Drill, undisturbed: Drill) -> None:
    expected, got = undisturbed.metrics(), drill.metrics()
    assert len(expected) == len(got) == STEPS
    assert [row["samples"] for row in got] == [row["samples"] for row in expected]
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    for name, value in undisturbed.weights().items():
        torch.testing.assert_close(drill.weights()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ctrl_c_is_an_interrupt_and_the_same_command_goes_on(undisturbed: Drill, drill: Drill) -> None:
    driver = drill.start()
    wait_for(drill.checkpoints, driver, drill.log)
    driver.send_signal(signal.SIGINT)
    driver.wait(timeout=300)  # with a code of Ray's; the command line's is 130
    assert drill.log.read_text().splitlines()[-1] == "KeyboardInterrupt"
    drill.finish(drill.start())
    assert_same(drill, undisturbed)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(undisturbed: Drill, drill: Drill) -> None:
    driver = drill.start()
    wait_for(drill.checkpoints, driver, drill.log)
    victim = wait_for(lambda: train_workers(driver), driver, drill.log)[-1]
    victim.kill()
    drill.finish(driver)
    assert_same(drill, undisturbed)
    assert len(drill.checkpoints()) == 2  # keep_checkpoints


@pytest.mark.slow
def test_a_killed_driver_changes_nothing(undisturbed: Drill, drill: Drill) -> None:
    driver = drill.start()
    wait_for(drill.checkpoints, driver, drill.log)
    kill_all(driver)
    seen = len(drill.metrics())
    assert not (drill.folder / "run" / "model" / "_DONE").exists()
    drill.finish(drill.start())
    assert seen < STEPS
    assert_same(drill, undisturbed)


@pytest.mark.slow
def test_two_workers_then_one_then_two_change_nothing(undisturbed: Drill, drill: Drill) -> None:
    first = drill.start(workers=2, zero_stage=2)
    wait_for(lambda: drill.saved_by(2), first, drill.log)
    kill_all(first)
    second = drill.start(workers=1)
    wait_for(lambda: drill.saved_by(1), second, drill.log)
    kill_all(second)
    drill.finish(drill.start(workers=2))
    assert {row["workers"] for row in drill.metrics()} == {1, 2}
    assert_same(drill, undisturbed)


@pytest.mark.slow
def test_a_drained_node_changes_nothing(undisturbed: Drill, drill: Drill) -> None:
    """A spot notice on one of two nodes: a checkpoint at once, then the run goes on with the worker that is left."""
    settings = {"min_workers": 1, "checkpoint_steps": 10**6, "epochs": EPOCHS}
    told = drill.finish(drill.start("--nodes", "2", "--drain-after", "5", **settings))
    assert told["accepted"]
    metrics = drill.metrics()
    assert {row["workers"] for row in metrics} == {1, 2}
    assert_same(drill, undisturbed)


@pytest.mark.slow
def test_a_mistake_met_by_a_worker_is_raised_once(tmp_path: Path) -> None:
    """One attempt, and the user is told which setting and which step.

    Every gradient is clipped to less than a thousandth, on any processor.
    """
    drill = Drill(tmp_path, categories=("PUNISH",))
    driver = drill.start(max_grad_norm=1e-9)
    try:
        assert driver.wait(timeout=900) != 0
    finally:
        if driver.poll() is None:
            kill_all(driver)
    text = drill.log.read_text()
    assert "realign.learning_rate: 0.003: each gradient was clipped to less than a thousandth" in text
    assert text.count("trace_ray.errors.UserError: realign.learning_rate") == 1
