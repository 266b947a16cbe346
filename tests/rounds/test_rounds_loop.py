"""The loop over rounds and what status, summary and tables tell of them; the stages themselves are not run here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.cli.tables import rounds_lines, status_table
from trace_ray.config import Config, ModelConfig, RoundsConfig, StorageConfig
from trace_ray.errors import NothingToTrainError, UserError
from trace_ray.pairs import REJECT_SCHEMA, TRIAGED_SCHEMA
from trace_ray.pipeline import run_stages
from trace_ray.rounds.loop import run_rounds
from trace_ray.runs.artifacts import ANSWERS, STAGES, Run
from trace_ray.runs.rounds import asked_rounds, round_run, rounds_summary
from trace_ray.runs.status import DRIVER, all_done, status
from trace_ray.runs.summary import run_summary
from trace_ray.runtime.progress import doing_in_all, within, working
from trace_ray.storage.location import locate

TPA = {1: (20.0, 60.0), 2: (60.0, 80.0), 3: (80.0, 95.0)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    for stage in STAGES:
        finish(run, 1, stage)
    return run


def finish(run: Run, number: int, stage: str) -> None:
    """Leaves what a stage would."""
    policy = {"policy": {"name": "p", "version": "1", "hash": "0"}, "judge": "rules", "audit": None}
    for folder in run.made_by(stage):
        folder.begin({})
        if stage == "evaluate":
            base, realigned = TPA[number]
            tpa = {"base": {"all": base}, "realigned": {"all": realigned}}
            (folder.place / "metrics.json").write_text(
                json.dumps({"tpa": tpa, "n": {"all": 5}, "tpa_by_source": tpa, "n_by_source": {"all": 5}})
            )
        counts = {"pairs": 3, "prompts": 3} if stage == ANSWERS else {"test RETAIN": 2, "train INVERT": 1}
        schema = {"triaged": TRIAGED_SCHEMA, "rejects": REJECT_SCHEMA}.get(folder.name)
        folder.publish(counts=counts, seconds=1.0, schema=schema, **policy)
    if stage == "report":
        run.report.write_text("<html></html>")


def configured(run: Run, number: int) -> Config:
    config = Config(model=ModelConfig(path="/some/model"), rounds=RoundsConfig(number=number))
    run.write_config(f"rounds: {{number: {number}}}\n")
    return config


def ran(run: Run, config: Config, stop: dict[tuple[str, str], Exception] | None = None) -> list[tuple[str, str, str]]:
    """Runs the rounds by stages that only leave their folders; returns (round's folder, stage, model it starts from)."""
    seen: list[tuple[str, str, str]] = []

    def stages_of(further: Run, settings: Config, stages: Sequence[str]) -> None:
        for stage in stages:
            seen.append((further.place.name, stage, settings.model.path.removeprefix(run.place.path)))
            if error := (stop or {}).get((further.place.name, stage)):
                raise error
            finish(further, int(further.place.name), stage)

    run_rounds(run, config, stages_of)
    return seen


def test_each_round_answers_and_then_runs_all_stages_on_the_model_before_it(run: Run) -> None:
    seen = ran(run, configured(run, 3))
    names = (ANSWERS, *STAGES)
    assert [(number, stage) for number, stage, _ in seen] == [(number, name) for number in ("2", "3") for name in names]
    assert {(number, model) for number, _, model in seen} == {("2", "/model/merged"), ("3", "/rounds/2/model/merged")}


def test_a_run_alone_has_no_round(run: Run) -> None:
    assert ran(run, configured(run, 1)) == []
    assert not (run.place / "rounds").exists()
    assert "rounds" not in run_summary(run)
    assert len(list(status(run))) == 8
    assert rounds_summary(run) == []


@pytest.mark.parametrize(
    ("number", "stages", "asked"),
    [(1, STAGES, []), (2, ["triage"], []), (2, STAGES, ["2"])],
)
def test_rounds_follow_a_run_of_all_stages_and_no_stage_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, stages: list[str], asked: list[str]
) -> None:
    """Stages here only leave their folders; what is up to date is left alone in the rounds too."""
    made: list[str] = []

    def runner(stage: str) -> Callable[[Run, Config], Any]:
        def work(one: Run, _config: Config) -> None:
            if stage != "report" and one.place.name != "run" and not one.made_by(stage)[-1].done():
                made.append(f"{one.place.name} {stage}")
                finish(one, int(one.place.name), stage)

        return work

    monkeypatch.setattr("trace_ray.pipeline.stage_runner", runner)
    monkeypatch.setattr("trace_ray.pipeline._refuse_unfit", lambda _config, _stages: None)
    monkeypatch.setattr("trace_ray.runs.opening.model_identity", lambda *_: "the model's files")
    config = configured(run, number)
    config = replace(
        config,
        corpus=replace(config.corpus, paths=("pairs.jsonl",)),
        triage=replace(config.triage, judge=replace(config.triage.judge, backend="rules")),
        evaluate=replace(config.evaluate, judge=replace(config.evaluate.judge, backend="rules")),
        realign=replace(config.realign, trackers=()),
    )
    told: list[str] = []

    def further(one: Run, _config: Config) -> Any:
        return (lambda stage, state: told.append(f"{one.place.name} {stage} {state}")), lambda _stage, _told: None

    run_stages(run, config, stages, further=further)
    assert made == [f"{name} {stage}" for name in asked for stage in (ANSWERS, *STAGES[:-1])]
    first, made[:] = list(told), []
    assert [said for said in first if said.endswith("answers done")] == [f"{name} answers done" for name in asked]
    run_stages(run, config, stages, further=further)
    assert made == []
    assert (run.place / "rounds").exists() == bool(asked)
    assert not any((one.place / "driver.json").exists() for one in (run, round_run(run, 2)))


def test_nothing_left_to_train_on_ends_the_rounds(run: Run) -> None:
    config = configured(run, 3)
    stop: dict[tuple[str, str], Exception] = {
        ("2", "impact"): NothingToTrainError("triaged/", "no conflict", "keep it")
    }
    seen = ran(run, config, stop)
    assert [(number, stage) for number, stage, _ in seen] == [("2", ANSWERS), ("2", "triage"), ("2", "impact")]
    rows = [row for row in status(run) if row[0].startswith("rounds/")]
    assert rows == [("rounds/2/ended", "done", {"nothing left to train on": "triaged/: no conflict"})]
    assert all_done([row for row in status(run) if row[0] != "report.html"])
    (line,) = rounds_lines(rounds_summary(run))
    end = "round 1 60.0, round 2 not trained (triaged/: no conflict)"
    assert line.plain == f"target policy agreement, %: before 20.0, {end}"
    ran(run, config)  # the cause is gone, as after `decide`
    assert [row["round"] for row in rounds_summary(run)] == [0, 1, 2, 3]


def test_a_mistake_of_a_round_is_no_end(run: Run) -> None:
    mistake = UserError("realign.learning_rate", 1e30, "use a lower one")
    with pytest.raises(UserError, match="use a lower one"):
        ran(run, configured(run, 2), {("2", "realign"): mistake})
    assert rounds_summary(run)[-1]["round"] == 1
    assert not all_done(list(status(run)))


def test_answers_that_make_no_pair_end_the_rounds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.finish", lambda run, *_: publish_nothing(run))
    seen = ran(run, configured(run, 3))
    assert [stage for _, stage, _ in seen] == [ANSWERS]
    assert rounds_summary(run)[-1]["ended"] == "of 4 prompts none has a drawn answer that differs from the greedy one"


def publish_nothing(further: Run) -> None:
    further.answers.begin({})
    further.answers.publish(counts={"pairs": 0, "prompts": 4, "identical_answers": 4}, seconds=0.0)


def test_status_says_of_which_round_it_speaks(run: Run) -> None:
    config = configured(run, 2)
    assert {name: state for name, state, _ in status(run) if name.startswith("rounds/")} == {
        f"rounds/2/{name}": "-"
        for name in (ANSWERS, "rejects", "triaged", "impact", "scored", "realign", "model", "evaluation", "report.html")
    }
    ran(run, config)
    working_at = (DRIVER, "at work", {"doing": "round 2: triage: 3/4", "host": "h", "pid": 1, "heard_s": 0.0})
    lines = printed(status_table([*status(run), working_at]))
    assert [line.split()[-1] for line in lines if line.startswith("triage")] != ["3/4"]
    (at_work,) = [line for line in lines if "at work" in line and line.startswith("round 2: triage")]
    assert at_work.endswith("3/4")
    assert any(line.startswith("round 2: answers") and "pairs 3" in line for line in lines)


def printed(table: Any) -> list[str]:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - nothing to flush
    console.print(table)
    return [line.strip() for line in console.export_text().splitlines()]


def test_what_is_done_belongs_to_its_round() -> None:
    with within("round 2"), working("triage"):
        assert doing_in_all() == "round 2: triage"
    assert doing_in_all() == ""


def test_the_last_line_compares_all_rounds(run: Run) -> None:
    ran(run, configured(run, 3))
    assert asked_rounds(run) == 3
    last = "target policy agreement, %: before 20.0, round 1 60.0, round 2 80.0, round 3 95.0"
    assert [line.plain for line in rounds_lines(run_summary(run)["rounds"])] == [last]
    result = CliRunner().invoke(app, ["status", "--run", run.place.path, "--json"])
    states = {row["artefact"]: row["state"] for row in json.loads(result.stdout)}
    assert states["rounds/3/model"] == "done"
