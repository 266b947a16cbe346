"""The progress line: what it counts, its rate and its ETA."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import StorageConfig
from trace_ray.realign import watch
from trace_ray.realign.loop import Trainer
from trace_ray.runs.artifacts import TRAINING_METRICS, Run
from trace_ray.runtime.progress import CONSOLE, Meter, warn
from trace_ray.storage.location import locate


class Clock:
    """A clock that a test moves on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr("time.monotonic", moved)
    return moved


def test_work_of_an_earlier_process_counts_as_done_but_not_in_the_rate(clock: Clock) -> None:
    meter = Meter("judge", 100)
    meter.skip(40)
    clock.now += 10
    meter.advance(20, "ok")
    assert meter.line() == "60/100 rows, 2.0/s, ETA 20 s ok"


def test_without_a_total_there_is_no_eta(clock: Clock) -> None:
    meter = Meter("read", 0, "parts")
    clock.now += 2
    meter.advance(3)
    assert meter.line() == "3 parts, 1.5/s"


def test_a_plain_line_comes_every_twenty_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("judge", 10) as meter:
        for _ in range(5):
            clock.now += 6
            meter.advance(1)
    assert capsys.readouterr().err == "judge: 4/10 rows, 0.2/s, ETA 36 s\n"


def test_the_first_steps_of_a_training_count_in_its_rate(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(locate(str(tmp_path), StorageConfig()))

    class Polls(threading.Event):
        """Stops the watch after one look, in which 23 of 55 steps have been written."""

        seen = False

        def wait(self, timeout: float | None = None) -> bool:
            last, self.seen = self.seen, True
            clock.now += 23
            row = {"step": 23, "steps": 55, "grad_norm": 1.0, "tokens_per_s": 80.0, "INVERT/loss": 0.5}
            (run.realign.place / TRAINING_METRICS).write_text(json.dumps(row) + "\n")
            return last

    watch.watch(run, Polls(), [])
    line = "realign: 23/55 steps, 1.0/s, ETA 32 s INVERT 0.500, norm 1.00, 80 tokens/s\n"
    assert capsys.readouterr().err == line


def test_reading_a_long_training_again_is_put_off_as_long_as_it_takes_but_2_percent(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    class Polls(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return len(waits) == 3

    def read(_run: Run) -> list[dict[str, float]]:
        clock.now += 3 if waits else 0
        return []

    monkeypatch.setattr(watch, "training_figures", read)
    watch.watch(Run(locate(str(tmp_path), StorageConfig())), Polls(), [])
    assert waits == [2.0, 150.0, 150.0]


def test_writing_the_steps_is_put_off_as_long_as_it_takes_but_2_percent(tmp_path: Path, clock: Clock) -> None:
    class Slow:
        """A tracker that takes its time."""

        def log(self, _step: int, _figures: dict[str, float]) -> None:
            clock.now += 1

        def flush(self) -> None: ...

    trainer: Any = object.__new__(Trainer)
    trainer.run_folder, trainer.trackers = Run(locate(str(tmp_path), StorageConfig())), [Slow()]
    trainer._logged = 0
    trainer.metrics = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]
    trainer.write_metrics()
    assert (trainer._pause, trainer._written) == (100.0, 102.0)
    assert (trainer.run_folder.realign.place / TRAINING_METRICS).read_text().count("\n") == 2
    trainer.write_metrics()  # nothing new to tell: quick again
    assert trainer._pause == 5.0


def test_a_warning_is_seen_where_progress_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CONSOLE, "quiet", True)
    CONSOLE.print("progress")
    warn("12 of 24 rows are refused")
    assert capsys.readouterr().err == "12 of 24 rows are refused\n"
    assert CONSOLE.quiet
