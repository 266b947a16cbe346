"""A triage by batch files: the rows of one by requests, and after a kill in the middle of a batch nothing is asked twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from tests.support.fake_batches import FakeBatches
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.load import load_config
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import UserError
from trace_ray.judges.opinion import Opinion
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage import stage
from trace_ray.triage.guard import Guard, Witness
from trace_ray.triage.stage import run_triage
from trace_ray.triage.work import Work
from trace_ray.triage.workers import Task

PAIRS = 30


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBatches]:
    triage_in_process(monkeypatch)
    made = FakeBatches()
    yield made
    threading.Thread(target=made.close, daemon=True).start()  # it takes half a second to hear of it


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


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, object]]]:
    """The rows of a triage by plain requests."""
    direct, folder = FakeEndpoint(), tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as here:
        triage_in_process(here)
        yield rows(configured(folder, EndpointConfig(base_url=direct.url)), folder, "plain")
    direct.close()


@pytest.mark.parametrize(("kind", "kills"), [("interruptions", 3), ("deaths", 1)])  # after so many is a span cut
def test_a_triage_killed_often_finds_its_batch_and_its_rows_are_those_of_plain_requests(
    server: FakeBatches,
    plain: list[dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    kills: int,
) -> None:
    batched = configured(tmp_path, EndpointConfig(base_url=server.url, batch_from=2 * PAIRS, batch_poll_s=0.001))
    if kind == "deaths":  # of an actor alone: the driver is the same
        monkeypatch.setattr(stage, "uuid", SimpleNamespace(uuid4=lambda: UUID(int=1)))

    async def killed(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as ended:
        ended.setattr("trace_ray.judges.batch_files.asyncio.sleep", killed)
        for _ in range(kills):
            with pytest.raises(KeyboardInterrupt):
                rows(batched, tmp_path, "run")
    assert rows(batched, tmp_path, "run") == plain
    assert server.begun == 1
    assert set(server.asked.values()) == {0, 1}
    assert sum(server.asked.values()) == 2 * PAIRS


@pytest.mark.parametrize("size", [1, 4])
def test_a_span_that_is_not_to_be_cut_is_asked_whole_however_often_its_process_ended(tmp_path: Path, size: int) -> None:
    place, calls = locate(str(tmp_path), StorageConfig()), list[int]()

    def ask(_requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        calls.append(len(responses))
        if len(calls) % 20:
            raise KeyboardInterrupt
        return [Opinion(0.5, final=len(calls) > 20)] * len(responses)

    def judged(driver: str) -> list[Opinion | None]:
        return Guard(place, size, Witness(driver), cuts=False).judge(["q"] * size, ["a"] * size, ask)

    for final in (False, True):  # what was not final is asked again
        for number in range(19):
            with pytest.raises(KeyboardInterrupt):
                judged("one" if number % 2 else f"other {number}")  # deaths, and interruptions
        assert judged("one") == [Opinion(0.5, final=final)] * size
    assert calls == [size] * 40
    assert len(place.files(".died")) == 9


@pytest.mark.parametrize(
    ("judge", "first", "cuts"),
    [
        ("batches", None, False),
        ("batches", "batches", False),
        ("batches", "distilled", False),
        ("batches", "vllm", True),
        ("vllm", "batches", True),
        ("requests", None, True),
        ("rules", "distilled", True),
    ],
)
def test_spans_are_left_whole_where_all_that_read_do_so_by_batches(
    tmp_path: Path, judge: str, first: str | None, *, cuts: bool
) -> None:
    endpoints = {"batches": EndpointConfig(batch_from=5), "requests": EndpointConfig()}
    judges = [
        JudgeConfig(backend="openai", endpoint=endpoints[name]) if name in endpoints else JudgeConfig(backend=name)
        for name in (judge, first)
        if name
    ]
    run = Run(locate(str(tmp_path), StorageConfig()))
    task = Task(policy=PolicyConfig(), config=TriageConfig(), work=Work.of(run), blocks=1, stores={}, deaths=0)
    assert task.guard("block", 4, *judges).cuts == cuts


def test_a_call_that_never_has_so_many_requests_is_said_beforehand() -> None:
    endpoint = ["triage.judge.endpoint.base_url=http://x/v1", "triage.judge.endpoint.batch_from=1000"]
    with pytest.raises(UserError, match=r"batch_from: 1000: no call has so many requests: .* at most 256"):
        load_config([], ["policy.text=x", "triage.judge.backend=openai", "triage.judge.model=m", *endpoint])
