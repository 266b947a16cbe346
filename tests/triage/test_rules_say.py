"""Rules name the clauses that they find broken, and say which ones nobody checks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.stage import run_triage


def test_rules_name_broken_clauses_unasked_and_what_they_did_not_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triage_in_process(monkeypatch)
    clauses = [ClauseConfig(id="short", text="x", rule=RuleConfig(max_words=2)), ClauseConfig(id="kind", text="y")]
    row = {"prompt": "q", "chosen": "one two three", "rejected": "one"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    run = Run(locate(str(tmp_path / "run"), StorageConfig()))
    triage = TriageConfig(judge=JudgeConfig(backend="rules"))
    corpus = CorpusConfig(paths=(f"{tmp_path}/x.jsonl",), holdout=0.0)
    run_triage(run, Config(policy=PolicyConfig(clauses=clauses), corpus=corpus, triage=triage))
    assert run.triaged.read(["clauses_chosen", "clauses_rejected", "category"]).to_pylist() == [
        {"clauses_chosen": ["short"], "clauses_rejected": None, "category": "INVERT"}
    ]
    assert run.triaged.manifest()["unchecked_clauses"] == ["kind"]
    said = " ".join(capsys.readouterr().err.split())
    assert "by rules, 1 of 2 clauses checked; nobody checks kind" in said
