"""What the terminal says where a stage ends: its table, its warnings, what to do next; and a line a stage of its state."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray import pipeline
from trace_ray.cli.app import app
from trace_ray.cli.endings import tell_curves, tell_end
from trace_ray.cli.tables import status_table
from trace_ray.config.load import dump_config
from trace_ray.report.stage import Told, run_report
from trace_ray.runs.status import DRIVER, status


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    made = MadeRun(tmp_path_factory.mktemp("ended"))
    made.everything(AUDIT)
    return made


@pytest.fixture(scope="module")
def told(made: MadeRun) -> Told:
    return run_report(made.run, config_of())


def said(made: MadeRun, stage: str, told: Told | None, *, more: bool = True) -> str:
    out = io.StringIO()
    tell_end(Console(file=out, width=200), made.run, config_of(), stage, told, more=more)
    return out.getvalue()


@pytest.mark.parametrize(
    ("stage", "table", "warned", "others"),
    [
        ("triage", "25 rows read, 5 refused", "are refused", "Fewer than 30"),
        ("impact", "no positive impact", "have no positive impact: weight 0", "are refused"),
        ("realign", "Training, 5 steps, 500 tokens", "", "weight 0"),
        ("evaluate", "Target policy agreement, %, by category", "Fewer than 30", "weight 0"),
    ],
)
def test_each_stage_ends_with_its_table_and_its_own_warnings(
    made: MadeRun, told: Told, capsys: pytest.CaptureFixture[str], stage: str, table: str, warned: str, others: str
) -> None:
    assert table in said(made, stage, told)
    warnings = " ".join(capsys.readouterr().err.split())
    assert warned in warnings
    assert others not in warnings


def test_the_report_repeats_every_warning_and_says_what_to_do(
    made: MadeRun, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(made, "report", told, more=False)
    assert capsys.readouterr().err.count("What to do: ") == len(told.warnings) >= 3
    assert shown == f"{told.decision.sentence}\nnext: {told.decision.command}\n"


def test_a_stage_that_others_follow_names_no_command_of_theirs(tmp_path: Path) -> None:
    made = MadeRun(tmp_path, rows=600)  # so that the five refused ones are few
    made.triage(AUDIT)
    told = run_report(made.run, config_of())
    assert told.decision.word == "go on"
    assert "next:" not in said(made, "triage", told)
    alone = said(made, "triage", told, more=False)
    assert f"next: trace-ray run -c {tmp_path}/config.yaml --run {tmp_path}\n" in alone
    assert "rows read" in said(made, "triage", None, more=False)


def test_tensorboard_is_named_where_its_logs_are_written(made: MadeRun) -> None:
    for trackers, there in (("[tensorboard]", True), ("[]", False)):
        out = io.StringIO()
        tell_curves(Console(file=out), made.run, config_of(f"realign.trackers={trackers}"))
        assert (f"tensorboard --logdir {made.folder}/realign/tensorboard" in out.getvalue()) is there


def test_a_stage_alone_prints_its_result_on_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeRun(tmp_path)
    made.run.write_config(dump_config(config_of("corpus.paths=[x]")))

    def triage(run: object, config: object, stages: object, note: object, ended: object, **_: object) -> None:
        made.triage(AUDIT)
        assert callable(note)
        assert callable(ended)
        note("triage", "start")
        ended("triage", run_report(made.run, config_of()))

    monkeypatch.setattr(pipeline, "run_stages", triage)
    done = CliRunner().invoke(app, ["triage", "--run", str(tmp_path)])
    assert "25 rows read, 5 refused" in done.stdout
    assert "next: trace-ray check" in done.stdout  # a fifth of the made rows is refused
    assert f"page: {tmp_path}/report.html" in done.stdout
    assert f"look on: trace-ray watch --run {tmp_path}" in done.stderr


def test_status_is_a_line_a_stage(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage()
    made.run.impact.begin({})
    rows = list(status(made.run))
    driver = {"doing": "impact: scores: 3/9 rows, ETA 6 s", "host": "here", "pid": 4, "heard_s": 1.0}
    out = io.StringIO()
    Console(file=out, width=200).print(status_table([*rows, (DRIVER, "at work", driver)]))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[0] for line in lines] == ["stage", "triage", "impact", "realign", "evaluate", "report", "driver"]
    assert [line[1] for line in lines[1:6:2]] == ["done", "-", "-"]
    assert " ".join(lines[1]) == "triage done rejects 5, rows in 25, triaged 20, 10 s"
    assert " ".join(lines[2]) == "impact at work impact: scores: 3/9 rows, ETA 6 s"
