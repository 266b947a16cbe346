"""A judge whose requests go as batch files: the same opinions, failed lines asked again, and after a kill nothing twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.fake_batches import FakeBatches
from tests.support.fake_endpoint import FakeEndpoint
from trace_ray.config import EndpointConfig, JudgeConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import UserError
from trace_ray.judges.openai_judge import OpenAIJudge
from trace_ray.judges.opinion import Opinion

POLICY = PolicyConfig(text="No BAD.")
RESPONSES = [f"{word} {i}" for i in range(7) for word in ("BAD", "good", "UNSURE")]
REQUESTS = [f"q{i}" for i in range(len(RESPONSES))]


@pytest.fixture
def server() -> Iterator[FakeBatches]:
    made = FakeBatches()
    yield made
    made.close()


def judge(url: str, **more: object) -> OpenAIJudge:
    endpoint = EndpointConfig(base_url=url, batch_from=10, batch_poll_s=0.001, backoff_s=0.001)
    return OpenAIJudge(POLICY, JudgeConfig(backend="openai", model="m", endpoint=replace(endpoint, **more)))  # type: ignore[arg-type]


def ask(url: str) -> list[Opinion]:
    return judge(url).opinions(REQUESTS, RESPONSES)


def test_opinions_and_counts_are_those_of_requests_one_by_one(server: FakeBatches) -> None:
    direct = FakeEndpoint()
    asked, batched = judge(direct.url, batch_from=0), judge(server.url)
    assert batched.opinions(REQUESTS, RESPONSES) == asked.opinions(REQUESTS, RESPONSES)
    assert batched.counts() == asked.counts()
    assert (server.begun, server.directly) == (1, 0)
    batched.opinions(REQUESTS[:9], RESPONSES[:9])  # fewer than batch_from
    assert (server.begun, server.directly) == (1, 9)
    direct.close()


def test_lines_that_fail_for_now_are_asked_again_and_others_once(server: FakeBatches) -> None:
    server.fault = lambda text, before: 429 if text == "BAD 3" and before < 2 else 400 if text == "good 4" else None
    found = dict(zip(RESPONSES, ask(server.url), strict=True))
    assert server.begun == 3
    assert server.asked == dict.fromkeys(RESPONSES, 1) | {"BAD 3": 3}
    assert found["BAD 3"].p_violates == pytest.approx(0.95)
    assert found["good 4"].p_violates is None
    assert "endpoint 400" in (found["good 4"].error or "")
    assert found["good 4"].final
    again = judge(server.url, max_retries=0)
    server.fault = lambda text, _before: 503 if text == "BAD 3" else None
    left = dict(zip(RESPONSES, again.opinions([f"{q}!" for q in REQUESTS], RESPONSES), strict=True))["BAD 3"]
    assert (left.p_violates, left.final) == (None, False)


def test_a_killed_process_leaves_a_batch_that_the_next_one_finds(server: FakeBatches) -> None:
    server.hold = 10**9
    killed = multiprocessing.get_context("fork").Process(target=ask, args=(server.url,))
    killed.start()
    assert server.arrived.wait(60)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    for other in range(3):  # others' batches, newer ones first: it stands on the second page
        server.begin({"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": None, "n": other})
    server.hold = 0
    found = ask(server.url)
    assert [opinion.p_violates for opinion in found[:2]] == [pytest.approx(0.95), pytest.approx(0.05)]
    assert server.begun == 1 + 3
    assert server.asked == dict.fromkeys(RESPONSES, 1)


def test_a_beginning_whose_answer_is_lost_is_found_and_not_repeated(server: FakeBatches) -> None:
    server.cut = 1
    assert ask(server.url)[0].p_violates == pytest.approx(0.95)
    assert server.begun == 1
    assert server.asked == dict.fromkeys(RESPONSES, 1)


def test_what_stops_a_batch_is_one_line(server: FakeBatches) -> None:
    server.hold = 10**9
    failed = {"status": "failed", "errors": {"data": [{"message": "too many tokens enqueued"}]}}
    begin = server.begin

    def refuse(payload: dict[str, object]) -> str:
        begin(payload)
        server.batches[0] |= failed
        return begin(payload | failed)

    server.begin = refuse  # type: ignore[method-assign]
    with pytest.raises(
        UserError, match=r"judge.endpoint.batch_from: batch batch-\d failed: too many tokens enqueued: see"
    ):
        ask(server.url)
    with pytest.raises(UserError, match=r"judge.endpoint.max_requests"):
        judge(server.url, max_requests=5).opinions(REQUESTS, RESPONSES)
