"""What a run's folder is left like when a run is refused or its disk is full. No stage gets far enough to need Ray."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pieces import PIECES, leave
from trace_ray.config import Config, ModelConfig, RealignConfig, StorageConfig, settings
from trace_ray.config.load import load_config
from trace_ray.errors import StaleRunError, UserError
from trace_ray.pipeline import run_stages, user_error_in
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import Run
from trace_ray.runs.memory import recorded_peak
from trace_ray.storage.location import locate
from trace_ray.synth.demo import __file__ as demo_file


@pytest.fixture
def config(tmp_path: Path) -> Config:
    pair = {"prompt": "p", "chosen": "a long answer", "rejected": "short"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    rules = ["triage.judge.backend=rules", "evaluate.judge.backend=rules"]
    clause = "policy.clauses=[{id: brief, text: Be brief., rule: {max_words: 2}}]"
    return load_config([], [f"corpus.paths=['{tmp_path / 'pairs.jsonl'}']", clause, *rules])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(locate(str(tmp_path / "run"), StorageConfig()))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two pages: room for the driver's record, none for the configuration."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_refused_change_leaves_the_configuration_that_the_run_was_made_with(config: Config, tmp_path: Path) -> None:
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    run.triaged.begin({"triage.threshold": 0.9})
    leave(run, PIECES["triage"])
    run.write_config("as it was begun")
    with pytest.raises(StaleRunError):
        run_stages(run, config, ["triage"])
    assert (tmp_path / "run" / "config.yaml").read_text() == "as it was begun"
    assert not (tmp_path / "run" / "driver.json").exists()


@pytest.mark.parametrize(
    ("stage", "setting", "was", "now"),
    [
        ("scored", "objective.weights", "uniform", "impact"),  # impact by no_impact, realign by trace
        ("scored", "lora.r", 4, 32),
        ("model", "model.max_length", 9, 256),
        ("triaged", "triage.threshold", 0.9, 0.5),
        ("triaged", "triage.first_judge.model", "a", "absent"),
        ("triaged", "policy", "brevity 0123", "' "),
    ],
)
@pytest.mark.parametrize("asked", ["realign", "evaluate", "report"])
def test_a_stage_alone_keeps_the_settings_that_others_were_begun_under(
    config: Config, run: Run, stage: str, setting: str, was: object, now: object, asked: str
) -> None:
    run.artifact(stage).begin({setting: was, "triaged": "a hash", "corpus file 1: a.jsonl (train)": "b"})
    for pieces in PIECES.values():
        leave(run, pieces)
    run.write_config("as it was begun")
    with pytest.raises(StaleRunError, match=f"{stage}: {setting}: .*{now}.* was begun with {was!r}"):
        run_stages(run, replace(config, model=ModelConfig(path="some/model")), [asked])
    assert (run.place / "config.yaml").read_text() == "as it was begun"


def test_settings_of_speed_and_stages_not_begun_are_free(config: Config, run: Run) -> None:
    run.triaged.begin(settings(config.triage, "triage"))
    changed = replace(config, realign=RealignConfig(epochs=3), triage=replace(config.triage, verdict_store="elsewhere"))
    with pytest.raises(UserError, match="nothing to report yet"):
        run_stages(run, changed, ["report"])


@pytest.mark.parametrize("before", ["as it was begun", None])
def test_a_run_that_stops_before_it_begins_a_stage_leaves_the_configuration(
    config: Config, run: Run, before: str | None
) -> None:
    """Here the corpus' file is missing; the run was begun with another."""
    if before:
        run.triaged.begin({})
        run.write_config(before)
    corpus = replace(config.corpus, paths=("nowhere.jsonl",))
    with pytest.raises(UserError, match="nowhere"):
        run_stages(run, replace(config, corpus=corpus), ["triage"])
    place = run.place / "config.yaml"
    assert (place.read_text() if place.exists() else None) == before


def test_the_peak_of_an_interrupted_stage_is_kept(config: Config, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded where the stage stopped before it had a folder."""
    begins = iter((False, True))

    def interrupted(run: Run, _config: Config) -> None:
        if next(begins):
            run.triaged.begin({})
        raise KeyboardInterrupt

    monkeypatch.setattr("trace_ray.pipeline.stage_runner", lambda _stage: interrupted)
    for begun in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run_stages(run, config, ["triage"])
        assert (recorded_peak(run.triaged.place) is not None) == begun


def test_a_stage_that_begins_anew_is_told_by_the_configuration_and_what_stopped_it_by_the_run(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's mistake comes wrapped; what it names may be changed in the same run, whatever was finished."""

    def stopped(run: Run, config: Config) -> None:
        begin(run, "impact", {"impact.gamma": config.impact.gamma, "seed": config.impact.seed})
        leave(run, PIECES["impact"])
        raise wrapped(UserError("impact.gamma", config.impact.gamma, "use a larger one"))["task"]

    runners = {"impact": stopped, "report": lambda _run, _config: None}
    monkeypatch.setattr("trace_ray.pipeline.stage_runner", runners.__getitem__)
    config = replace(config, model=ModelConfig(path=str(Path(demo_file).with_name("models") / "policy")))
    for gamma in (1.0, 2.0, 3.0):
        with pytest.raises(UserError, match=f"impact.gamma: {gamma}: use a larger one"):
            run_stages(run, replace(config, impact=replace(config.impact, gamma=gamma)), ["impact"])
        assert f"gamma: {gamma}" in (run.place / "config.yaml").read_text()
    with pytest.raises(StaleRunError, match="seed"):
        run_stages(run, replace(config, impact=replace(config.impact, gamma=3.0, seed=1)), ["impact"])


@pytest.mark.parametrize("asked", [["triage", "report"], ["triage"]])
def test_a_report_is_written_after_each_stage(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """Also where the stage stops at a mistake; one that the report itself meets ends no run. Its end is told once."""
    seen: list[str] = []
    ends = iter((UserError("triage", "bad judge", "use another"), None))

    def runner(stage: str) -> Callable[[Run, Config], None]:
        def done(run: Run, _config: Config) -> None:
            seen.append(stage)
            if stage == "report" and seen.count("report") < 3:
                raise UserError("--run", "nothing to report", "wait")
            if stage == "triage":
                begin(run, "triage", {})
                if (mistake := next(ends)) is not None:
                    raise mistake
                for folder in run.made_by("triage"):
                    folder.publish(counts={}, seconds=0.0)

        return done

    told: list[tuple[str, object]] = []
    config = replace(config, realign=replace(config.realign, trackers=()))

    monkeypatch.setattr("trace_ray.pipeline.stage_runner", runner)
    with pytest.raises(UserError, match="bad judge"):
        run_stages(run, config, asked)
    run_stages(run, config, asked, ended=lambda stage, page: told.append((stage, page)))
    assert seen == ["triage", "report", "triage", "report", *asked[1:]]
    assert told == [(stage, None) for stage in asked]


def test_another_policy_threshold_or_base_is_another_evaluation(config: Config, run: Run) -> None:
    from trace_ray.evaluate.stage import evaluate_inputs

    run.model.begin({})
    run.model.publish(counts={}, seconds=0.0)
    inputs = evaluate_inputs(run, config)
    policy = replace(config, policy=replace(config.policy, version="2"))
    threshold = replace(config, triage=replace(config.triage, threshold=0.4))
    base = replace(config, model=replace(config.model, revision="other"))
    assert all(evaluate_inputs(run, changed) != inputs for changed in (policy, threshold, base))


def test_a_disk_that_is_full_from_the_start_is_one_line(config: Config, small_disk: Path) -> None:
    run = Run(locate(str(small_disk), StorageConfig()))
    with pytest.raises(UserError, match="the disk is full") as caught:
        run_stages(run, config, ["triage"])
    assert "\n" not in str(caught.value)
    assert [path.name for path in small_disk.iterdir() if not path.name.startswith(".")] == []


def wrapped(cause: Exception) -> dict[str, BaseException]:
    """What reaches the driver where a task, a training worker or Ray Train's controller met ``cause``; no Ray is started."""
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    return {
        "task": RayTaskError("score_rows", "a trace", cause).as_instanceof_cause(),
        "worker": WorkerGroupError("a trace", {1: UserExceptionWithTraceback(cause, "a trace")}),
        "controller": ControllerError(cause),
    }


@pytest.mark.parametrize("met_by", ["task", "worker", "controller"])
def test_a_full_disk_is_one_line_whoever_met_it(met_by: str) -> None:
    from ray import cloudpickle

    error = wrapped(OSError(errno.ENOSPC, "No space left on device"))[met_by]
    found = user_error_in(cloudpickle.loads(cloudpickle.dumps(error)))
    assert str(found).startswith("disk: no space left: the disk is full")
    assert user_error_in(wrapped(OSError(errno.EIO, "a broken disk"))[met_by]) is None
