"""The examples in README.md and CONTRIBUTING.md do what they are there for."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from tests.support.documents import ROOT, blocks, example, section
from trace_ray import pipeline
from trace_ray.cli.start import starter
from trace_ray.config import FORMAT_NAMES, Config, CorpusConfig, JudgeConfig, plugins
from trace_ray.config.load import load_config
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.formats import compared
from trace_ray.corpus.formats.base import Format
from trace_ray.corpus.rows import FORMATS, RejectedRowError
from trace_ray.judges.backends import make_judge
from trace_ray.judges.opinion import Clauses, Judge, Opinion
from trace_ray.objective.losses import Response
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.runs.artifacts import Artifact, Run

GUIDE = ROOT / "CONTRIBUTING.md"


@pytest.mark.parametrize("name", ["A policy", "A method", "A loss", "A judge", "A corpus format"])
def test_how_to_add_one_is_under_twenty_lines(name: str) -> None:
    assert 5 < len([line for line in section(GUIDE, name).splitlines() if line.strip()]) < 20


def test_the_configuration_on_the_front_page_is_what_init_writes() -> None:
    (shown,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "yaml"]
    written = starter("rules").read_text()
    assert written.partition("policy:\n")[1:] == ("policy:\n", shown.removeprefix("policy:\n"))


def test_the_row_on_the_front_page_is_a_pair(tmp_path: Path) -> None:
    (row,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "json"]
    (pair,) = FORMATS["preference"].read(json.loads(row), CorpusConfig())
    assert (pair.prompt[0]["content"], pair.chosen[:7], pair.rejected[:4]) == ("What is a cat?", "A small", "Cats")


def test_the_examples_of_a_policy_and_a_method_load(tmp_path: Path) -> None:
    files = [tmp_path / "policy.yaml", tmp_path / "method.yaml"]
    for file, name in zip(files, ("A policy", "A method"), strict=True):
        file.write_text(example(GUIDE, name))
    config = load_config(files, ["triage.judge.backend=rules", "evaluate.judge.backend=rules"])
    assert (config.policy.name, config.objective.method) == ("no_promises", "trace_ipo")
    usual = yaml.safe_load((ROOT / "conf/methods/trace.yaml").read_text())["objective"]
    assert set(yaml.safe_load(example(GUIDE, "A method"))["objective"]) == set(usual), "a row sets what every row sets"


def test_the_example_of_a_loss_is_an_entry() -> None:
    made: dict[str, Any] = {}
    exec(example(GUIDE, "A loss"), made)
    (entry,) = made["ENTRIES"]
    names = [item.name for item in dataclasses.fields(Response)]
    sides = (
        Response(**{name: torch.tensor([value]) for name, value in zip(names, (4.0, 0.0, ratio, 0.0), strict=True)})
        for ratio in (0.5, -1.0)
    )
    assert entry.value(next(sides), tuple(sides), {"beta": 0.4, "length_norm": False}).item() == pytest.approx(0.4)


def test_the_example_of_a_judge_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = dict.fromkeys(("PolicyConfig", "JudgeConfig"), Any)
    made |= {"Sequence": Sequence, "Opinion": Opinion, "Clauses": Clauses}
    exec(example(GUIDE, "A judge"), made)
    (row,) = re.findall(r'(?m)^# in OWN\["judges"\] of (?:\S+): {5}(.+),$', example(GUIDE, "A judge"))
    ((name, path),) = eval(f"{{{row}}}").items()
    monkeypatch.setitem(plugins.OWN["judges"], name, path)
    monkeypatch.setitem(sys.modules, path.partition(":")[0], SimpleNamespace(**made))
    judge = make_judge(PolicyConfig(), JudgeConfig(backend=name))
    for name in ("opinions", "clauses", "counts"):
        wanted = list(inspect.signature(getattr(Judge, name)).parameters)
        assert list(inspect.signature(getattr(type(judge), name)).parameters) == wanted
    said = judge.opinions(["q"] * 3, ["a b", "a a", ""])
    assert [opinion.p_violates for opinion in said] == [0, 0.5, None]
    assert said[2].error


def test_the_example_of_a_corpus_format_reads_rows() -> None:
    made = dict(vars(compared))
    exec(example(GUIDE, "A corpus format"), made)
    (entry,) = re.findall(r"(?m)^# in FORMATS: {5}(.+),$", example(GUIDE, "A corpus format"))
    duel: Format = eval(entry, made)
    good = {"prompt": "q", "answer_a": "worse", "answer_b": "better", "better": 1}
    assert duel.fits(frozenset(good))
    (pair,) = duel.read(good, CorpusConfig())
    assert (pair.prompt, pair.chosen, pair.rejected) == ([{"role": "user", "content": "q"}], "better", "worse")
    for bad in (good | {"better": 2}, good | {"prompt": None}, good | {"answer_a": 7}, {}):
        with pytest.raises(RejectedRowError):
            duel.read(bad, CorpusConfig())
    assert set(FORMATS) == set(FORMAT_NAMES)


def test_the_example_in_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def runner(stage: str) -> Any:
        def publish(run: Run, _config: Config) -> None:
            ran.append(stage)
            for artifact in run.made_by(stage):
                assert isinstance(artifact, Artifact)
                artifact.begin({})
                artifact.publish(counts={}, seconds=0, schema=SCORED_SCHEMA)

        return publish

    monkeypatch.setattr(pipeline, "stage_runner", runner)
    monkeypatch.setattr("trace_ray.plan.preflight.preflight", lambda *_: [])  # the starter's models are on a hub
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # the starter asks for GPUs that this machine may not have
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "trace_ray" / "cli" / "starters" / "gpu.yaml", "trace-ray.yaml")
    (code,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    exec(code, {})
    assert ran == ["triage", "report", "impact", "report"]  # what is known is told after each stage
    assert capsys.readouterr().out == "[]\n"
