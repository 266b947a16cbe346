"""A plan asks a hub once, and only for what this machine does not have; what is local is looked at first."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.config import Config, JudgeConfig
from trace_ray.config.load import load_config
from trace_ray.plan.hub import unreached

SETTINGS = ["corpus.paths=[x]", "model.path=org/model", "triage.judge.model=org/judge"]


class DeadHub:
    """Takes connections and hangs up: counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._hang_up, daemon=True).start()

    def _hang_up(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.asked += 1
            connection.close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DeadHub]:
    dead = DeadHub()
    monkeypatch.setattr(constants, "ENDPOINT", dead.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield dead
    dead.socket.close()


@pytest.fixture
def config() -> Config:
    return load_config(["examples/demo"], SETTINGS)


def keep(folder: Path, model: str) -> None:
    """A copy of a hub's model, as its client keeps one."""
    place = folder / "hub" / f"models--{model.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (place / "snapshots" / ("0" * 40) / "config.json").write_text("{}")


def test_a_hub_that_does_not_answer_is_one_problem_after_one_try(hub: DeadHub, config: Config) -> None:
    problem = unreached(config, ["triage", "impact"])
    assert problem is not None
    assert str(problem).startswith(
        f"{hub.endpoint}: triage.judge.model=org/judge, model.path=org/model: the hub does not"
    )
    assert hub.asked == 1


def test_only_the_models_of_the_stages_are_asked_for(hub: DeadHub, config: Config) -> None:
    problem = unreached(config, ["triage"])
    assert problem is not None
    assert problem.seen == "triage.judge.model=org/judge"
    assert unreached(config, ["report"]) is None
    assert hub.asked == 1


def test_local_models_and_rules_ask_nobody(hub: DeadHub, config: Config, tmp_path: Path) -> None:
    rules = replace(config.triage, judge=JudgeConfig(backend="rules"))
    for path in (str(tmp_path), "s3://bucket/model", "/nowhere", "./nowhere"):
        here = replace(config, triage=rules, model=replace(config.model, path=path))
        assert unreached(here, ["triage", "impact", "realign", "evaluate"]) is None
    assert hub.asked == 0


def test_with_copies_of_all_it_goes_on_offline(hub: DeadHub, config: Config, tmp_path: Path) -> None:
    keep(tmp_path, "org/model")
    assert "judge" in str(unreached(config, ["triage", "impact"]))
    keep(tmp_path, "org/judge")
    assert unreached(config, ["triage", "impact"]) is None
    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_plan_tells_what_is_wrong_here_and_that_the_hub_is_away(hub: DeadHub, tmp_path: Path) -> None:
    words = ["-c", "examples/demo", "corpus.paths=[none.jsonl]", *SETTINGS[1:], "triage.audit_labels=none.jsonl"]
    said = CliRunner().invoke(app, ["plan", *words])
    assert said.exit_code == 2
    for setting in ("corpus.paths: none.jsonl", "triage.audit_labels: none.jsonl", hub.endpoint):
        assert f"trace-ray: {setting}" in said.stderr, said.stderr
    assert hub.asked == 1
    some = CliRunner().invoke(app, ["plan", *words, "--stages", "impact,triag"])
    assert "--stages: triag: use some of triage" in str(some.exception)
