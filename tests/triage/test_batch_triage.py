"""A triage by batch files: the rows of one by requests, and after a kill in the middle of a batch nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_batches import FakeBatches
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.load import load_config
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.stage import run_triage

PAIRS = 30


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBatches]:
    triage_in_process(monkeypatch)
    made = FakeBatches()
    yield made
    made.close()


def configured(folder: Path, endpoint: EndpointConfig) -> Config:
    pairs = [
        {"prompt": f"q{i}", "chosen": f"{'BAD' if i % 3 else 'good'} c{i}", "rejected": f"good r{i}"}
        for i in range(PAIRS)
    ]
    (folder / "x.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    judge = JudgeConfig(backend="openai", model="m", endpoint=endpoint, chat_template_date="2026-01-31")
    corpus = CorpusConfig(paths=(f"{folder}/x.jsonl",), rows_per_part=64)
    triage = TriageConfig(judge=judge, min_canary_pass=0.0, audit_sample=0)
    return replace(load_config([], ["policy.text=Nothing BAD."]), corpus=corpus, triage=triage)


def rows(config: Config, folder: Path, name: str) -> list[dict[str, object]]:
    run = Run(locate(str(folder / name), StorageConfig()))
    run.write_config("written by the pipeline")
    run_triage(run, config)
    return sorted(run.triaged.read().to_pylist(), key=lambda row: str(row["row"]))


def test_a_killed_triage_finds_its_batch_and_its_rows_are_those_of_plain_requests(
    server: FakeBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = FakeEndpoint()
    plain = rows(configured(tmp_path, EndpointConfig(base_url=direct.url)), tmp_path, "plain")
    direct.close()
    batched = configured(tmp_path, EndpointConfig(base_url=server.url, batch_from=2 * PAIRS, batch_poll_s=0.001))

    async def killed(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as ended:
        ended.setattr("trace_ray.judges.batch_files.asyncio.sleep", killed)
        with pytest.raises(KeyboardInterrupt):
            rows(batched, tmp_path, "run")
    assert rows(batched, tmp_path, "run") == plain
    assert server.begun == 1
    assert set(server.asked.values()) == {0, 1}
    assert sum(server.asked.values()) == 2 * PAIRS


def test_a_call_that_never_has_so_many_requests_is_said_beforehand() -> None:
    endpoint = ["triage.judge.endpoint.base_url=http://x/v1", "triage.judge.endpoint.batch_from=1000"]
    with pytest.raises(UserError, match=r"batch_from: 1000: no call has so many requests: .* at most 256"):
        load_config([], ["policy.text=x", "triage.judge.backend=openai", "triage.judge.model=m", *endpoint])
