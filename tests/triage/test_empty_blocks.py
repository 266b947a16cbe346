"""Blocks in which no pair is left: the prompts may all fall into others, or all pairs of one be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.block import JUDGED_SCHEMA
from trace_ray.triage.calibrate import Calibration, Decision
from trace_ray.triage.dawid_skene import Skills
from trace_ray.triage.skills import with_panel
from trace_ray.triage.stage import run_triage
from trace_ray.triage.work import Work

ROWS = [{"prompt": "q", "chosen": f"a long answer {i}", "rejected": f"short {i}"} for i in range(8)]


def config() -> Config:
    clause = "policy.clauses=[{id: brief, text: Be brief., rule: {max_words: 2}}]"
    return load_config([], [clause, "triage.judge.backend=rules"])


def triaged(folder: Path, rows: list[dict[str, str]], config: Config) -> dict[str, int]:
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(locate(str(folder / "run"), StorageConfig()))
    run_triage(run, replace(config, corpus=CorpusConfig(paths=(f"{folder}/x.jsonl",), rows_per_part=2)))
    return dict(run.triaged.manifest()["counts"])


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    triage_in_process(monkeypatch)


def test_one_prompt_leaves_all_blocks_but_one_empty(tmp_path: Path) -> None:
    counts = triaged(tmp_path, ROWS, config())
    assert (counts["rows_in"], counts["triaged"], counts["rejects"]) == (8, 8, 0)


@pytest.mark.parametrize("combine", ["majority", "dawid_skene"])
def test_a_panel_has_empty_blocks_too(tmp_path: Path, combine: str) -> None:
    server = FakeEndpoint()
    asked = JudgeConfig(backend="openai", model="m", endpoint=EndpointConfig(base_url=server.url))
    asked = replace(asked, chat_template_date="2026-01-31")
    plain = config()
    triage = replace(
        plain.triage, judge=asked, second_judge=asked, combine=combine, min_canary_pass=0.0, max_one_sided=1
    )
    try:
        counts = triaged(tmp_path, ROWS, replace(plain, triage=triage))
    finally:
        server.close()
    assert (counts["rows_in"], counts["triaged"], counts["rejects"]) == (8, 8, 0)


def test_of_no_votes_a_panel_knows_nothing_and_says_so(tmp_path: Path) -> None:
    """Every pair of it was refused while it was judged."""
    work = Work.of(Run(locate(str(tmp_path / "run"), StorageConfig())))
    work.verdicts(0).write_parquet(JUDGED_SCHEMA.empty_table())
    triage = replace(config().triage, combine="dawid_skene", second_judge=JudgeConfig())
    decision = with_panel(Decision(Calibration(), 0.5, 0.0), work, triage, {}, 1, 0)
    assert decision.panel.skills == Skills(0.5, [0.5, 0.5], [0.5, 0.5])
