"""`trace-ray label answers`: what its page shows, and what raters differ on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.known_answers import answer, config_of, label, trained_run, written
from trace_ray.cli.label import label_app
from trace_ray.config.load import dump_config
from trace_ray.evaluate.stage import run_evaluate
from trace_ray.runs.artifacts import Run
from trace_ray.triage.labelling.answers import of_answers


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return trained_run(tmp_path / "run", monkeypatch)


def test_the_page_of_answers_shows_what_labels_are_of_and_raters_differ_on(run: Run, tmp_path: Path) -> None:
    run_evaluate(run, config_of("Flawed"))
    run.write_config(dump_config(config_of("Flawed")))
    page = tmp_path / "labels.html"
    words = ["answers", "--run", run.place.path, "--out", str(page), "--number", "30"]
    told = CliRunner().invoke(label_app, words, catch_exceptions=False)
    assert "answers to 30 prompts" in told.output
    assert f"trace-ray evaluate -c FILE --run {run.place.path} evaluate.audit_labels=labels.jsonl" in told.output
    shown = pairs_on(page)
    assert {(pair["prompt"], *pair["answers"]) for pair in shown} == {
        (f"q test {i}", answer("base", i), answer("realigned", i)) for i in map(number_of, shown)
    }
    assert len({*map(number_of, shown)}) == 30
    assert {pair["id"] for pair in shown} == {pair.pair_id for pair in of_answers(run, 30, 0)}
    mine, others = ([label(pair["id"], chosen, False) for pair in shown[:3]] for chosen in (True, False))
    files = [
        written(folder_of(tmp_path, name), rows) for name, rows in (("ann", mine), ("ben", [*others[:2], mine[2]]))
    ]
    words = ["merge", *files, "--out", str(tmp_path / "all.jsonl"), "--page", str(page), "--run", run.place.path]
    assert "2 left on which they differ" in CliRunner().invoke(label_app, words, catch_exceptions=False).output
    assert {pair["id"] for pair in pairs_on(page)} == {pair["id"] for pair in shown[:2]}


def pairs_on(page: Path) -> list[dict[str, Any]]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return list(json.loads(data)["pairs"])


def number_of(pair: dict[str, Any]) -> int:
    return int(pair["prompt"].split()[-1])


def folder_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name
