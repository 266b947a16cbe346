"""The commands around a run: starter configuration, status, quiet and debug."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.test_docs import COMMAND, parse
from trace_ray.cli.app import COMMANDS, app
from trace_ray.cli.start import NEEDS
from trace_ray.cli.status import WATCH_SECONDS
from trace_ray.config import StorageConfig
from trace_ray.config.check import check_needed, unfilled
from trace_ray.config.load import load_config
from trace_ray.runs.artifacts import STAGES, Run
from trace_ray.runtime.progress import CONSOLE
from trace_ray.storage.location import locate


def trace_ray(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trace_ray.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_starter_is_a_whole_configuration_and_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert CliRunner().invoke(app, ["init", str(file)]).exit_code == 0
    config = load_config([file])
    check_needed(config, ["triage", "impact", "realign", "evaluate", "report"])
    assert config.policy.clauses[1].rule is not None
    file.write_text("mine")
    refused = trace_ray("init", str(file))
    assert refused.returncode == 2
    assert refused.stderr.startswith("trace-ray: init: ")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("kind", NEEDS)
def test_every_starter_is_whole_and_says_what_it_needs(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "mine.yaml"
    said = CliRunner().invoke(app, ["init", str(file), f"--{kind}"])
    assert said.stdout.startswith(f"{file}: {NEEDS[kind]}; then: ")
    config = load_config([file])
    check_needed(config, STAGES)
    assert (kind == "rules") == (config.triage.judge.backend == "rules")
    assert (kind == "endpoint") == (config.triage.judge.backend == "openai")
    assert (kind in ("gpu", "cluster")) == bool(config.impact.gpus)
    places = {problem.where.partition(".")[0] for problem in unfilled(config)}
    assert places == {"endpoint": {"triage", "evaluate"}, "cluster": {"corpus", "model", "triage", "evaluate"}}.get(
        kind, set()
    )


def test_one_kind_of_starter_at_a_time(tmp_path: Path) -> None:
    refused = trace_ray("init", str(tmp_path / "mine.yaml"), "--rules", "--gpu")
    assert refused.stderr == "trace-ray: init: --rules --gpu: ask for one kind of configuration\n"
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_one_line_and_a_trace_under_debug(tmp_path: Path) -> None:
    wrong = ["triage", "-c", str(tmp_path / "none.yaml"), "--run", str(tmp_path / "run")]
    plain, debug = trace_ray(*wrong), trace_ray("--debug", *wrong)
    assert plain.returncode == 2
    assert plain.stderr.count("\n") == 1
    assert "no such file" in plain.stderr
    assert "Traceback" in debug.stderr


def test_status_at_a_glance_for_people_and_machines(tmp_path: Path) -> None:
    run = Run(locate(str(tmp_path), StorageConfig()))
    run.triaged.begin({})
    run.triaged.publish(counts={"rows_in": 7}, seconds=3)
    run.rejects.begin({})
    text = CliRunner().invoke(app, ["status", "--run", str(tmp_path)])
    assert "rows in 7" in text.stdout
    found = {
        row["artefact"]: row
        for row in json.loads(CliRunner().invoke(app, ["status", "--run", str(tmp_path), "--json"]).stdout)
    }
    assert found["triaged"]["state"] == "done"
    assert found["rejects"]["state"] == "begun"
    assert found["model"]["state"] == "-"


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each wait of `status --watch`: after the first nothing is new, after each other one artefact more, the report last."""
    run = Run(locate(str(tmp_path), StorageConfig()))
    left = [run.triaged, run.rejects, run.impact, run.scored, run.realign, run.model, run.evaluation]
    left[0].begin({})
    waits: list[float] = []

    def one_more_is_done(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            return
        if left:
            left[0].begin({})
            left.pop(0).publish(counts={"rows_in": len(waits)}, seconds=1)
        else:
            run.report.write_text("<html>")

    monkeypatch.setattr("trace_ray.cli.status.time.sleep", one_more_is_done)
    return waits


def test_a_watched_status_ends_when_all_is_done(tmp_path: Path, waits: list[float]) -> None:
    watched = CliRunner().invoke(app, ["status", "--run", str(tmp_path), "--watch"])
    assert watched.exit_code == 0, watched.output
    assert waits == [WATCH_SECONDS] * 9
    assert "rows in 8" in watched.stdout
    last = watched.stdout[watched.stdout.rindex("stage ") :]
    assert last.count("done") == 5
    assert "begun" not in last


def test_a_watched_status_tells_machines_of_each_change_once(tmp_path: Path, waits: list[float]) -> None:
    watched = CliRunner().invoke(app, ["status", "--run", str(tmp_path), "--watch", "--json"])
    assert watched.exit_code == 0, watched.output
    told = [{row["artefact"]: row["state"] for row in json.loads(line)} for line in watched.stdout.splitlines()]
    assert len(waits) == 9
    assert [list(states.values()).count("done") for states in told] == list(range(9))


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("trace-ray re", {"realign", "report"}),
        ("trace-ray run --meth", {"--method"}),
        ("trace-ray run --method no_", {"no_impact", "no_kl", "no_retain", "no_triage"}),
        ("trace-ray status --wa", {"--watch"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_options_and_methods(typed: str, offered: set[str], shell: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    words |= {
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TRACE_RAY_COMPLETE": f"complete_{shell}",
    }
    program = ["-c", "import sys; sys.argv[0] = 'trace-ray'; from trace_ray.cli.app import main; main()"]
    ended = subprocess.run(
        [sys.executable, *program], env=os.environ | words, capture_output=True, text=True, check=False
    )
    found = set(re.findall(r"[\w-]+", ended.stdout))
    assert offered <= found, ended
    assert not found & {"triage", "--run", "rdpo", "--json"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run", "--rnu", "x"], "No such option: --rnu"),
        (["run"], "Missing option '-c' / '--config'. Example: trace-ray run -c my.yaml --run runs/first (more: "),
        (["rate", "make"], "No such command 'make'. Example: trace-ray rate export runs/first --out runs/ratings"),
        (["status", "--run", "nowhere"], "--run: nowhere: no run has begun there"),
    ],
)
def test_a_command_that_cannot_be_read_is_one_line(words: list[str], line: str) -> None:
    ended = trace_ray(*words)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"trace-ray: {line}"), ended.stderr
    assert ended.stderr.count("\n") == 1


def test_quiet_says_nothing_on_the_way(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["--quiet", "status", "--run", str(tmp_path)])
    assert CONSOLE.quiet
    CliRunner().invoke(app, ["status", "--run", str(tmp_path)])
    assert not CONSOLE.quiet


def test_every_command_stands_under_a_heading_with_an_example_that_can_be_read() -> None:
    help_text = CliRunner().invoke(app, ["-h"]).stdout
    for group in ("Start", "Stages", "Inspect", "Exchange"):
        assert f" {group} " in help_text
    for entry in COMMANDS:
        own = " ".join(CliRunner().invoke(app, [entry.name, "--help"]).stdout.split())
        assert f"Example: {entry.example}" in own
        assert entry.example.startswith(f"trace-ray {entry.name}")
        parse(shlex.split(entry.example)[1:])


def leaves(command: Any = COMMAND, path: str = "trace-ray") -> Iterator[tuple[str, Any]]:
    """Yields each command that does something, with the words that call it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command


@pytest.mark.parametrize(("path", "command"), leaves(), ids=lambda each: str(each).replace(" ", "_"))
def test_every_command_has_an_example_that_can_be_read(path: str, command: Any) -> None:
    assert command.epilog.startswith(f"Example: {path}")
    parse(shlex.split(command.epilog.removeprefix("Example: "))[1:])


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"trace-ray {version('trace-ray')}\n"
