"""A judge whose requests go as batch files: the same opinions, failed lines asked again, and after a kill nothing twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.fake_batches import FakeBatches
from tests.support.fake_endpoint import FakeEndpoint, answer, p_yes
from trace_ray.config import EndpointConfig, JudgeConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import UserError
from trace_ray.judges.openai_judge import OpenAIJudge
from trace_ray.judges.opinion import Opinion
from trace_ray.judges.spend import Spend, spent

POLICY = PolicyConfig(text="No BAD.")
RESPONSES = [f"{word} {i}" for i in range(7) for word in ("BAD", "good", "UNSURE")]
REQUESTS = [f"q{i}" for i in range(len(RESPONSES))]


@pytest.fixture
def server() -> Iterator[FakeBatches]:
    made = FakeBatches()
    yield made
    threading.Thread(target=made.close, daemon=True).start()  # it takes half a second to hear of it


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


def left_open(opinions: list[Opinion]) -> int:
    return sum(not opinion.final for opinion in opinions)


def expected() -> list[float]:
    return [p_yes(text) for text in RESPONSES]


def said(opinions: list[Opinion]) -> list[float | None]:
    return [opinion.p_violates and round(opinion.p_violates, 6) for opinion in opinions]


def test_lines_that_cannot_be_read_are_asked_again_and_others_keep_their_odd_characters(server: FakeBatches) -> None:
    server.spoilt = {"BAD 3", "good 5"}
    assert said(ask(server.url)) == expected()
    assert server.asked == dict.fromkeys(RESPONSES, 1) | {"BAD 3": 2, "good 5": 2}


@pytest.mark.parametrize("answers", [0, 10])
def test_what_a_batch_that_expired_left_open_is_asked_in_each_further_run(server: FakeBatches, answers: int) -> None:
    server.ends, server.answers = "expired", answers
    for begun in (1, 2):
        assert left_open(judge(server.url, max_retries=0).opinions(REQUESTS, RESPONSES)) == 21 - begun * answers
        assert server.begun == begun
    server.ends, server.answers = "completed", 21
    for _ in range(2):  # once all is answered, nothing is asked
        assert said(judge(server.url, max_retries=0).opinions(REQUESTS, RESPONSES)) == expected()
        assert server.begun == 3
        assert server.asked == dict.fromkeys(RESPONSES, 1)


def test_a_cancelled_batch_stops_the_run_and_what_it_answered_is_not_asked_again(server: FakeBatches) -> None:
    server.ends, server.answers = "cancelled", 10
    with pytest.raises(UserError, match=r"batch batch-1 cancelled"):
        ask(server.url)
    server.batches[0]["status"] = "cancelling"
    poll, server.get = server.get, lambda path: poll(path).replace("cancelling", "cancelled")  # type: ignore[method-assign]
    server.ends, server.answers = "completed", 21
    again = judge(server.url)
    assert said(again.opinions(REQUESTS, RESPONSES)) == expected()
    assert server.asked == dict.fromkeys(RESPONSES, 1)
    assert (again.counts()["requests"], again.counts()["retries"]) == (21, 11)


def test_a_batch_whose_files_are_deleted_is_asked_anew(server: FakeBatches) -> None:
    ask(server.url)
    server.files.clear()
    for _ in range(2):
        assert said(ask(server.url)) == expected()
        assert server.begun == 2


def test_a_line_that_was_refused_is_asked_anew_by_the_next_run(server: FakeBatches) -> None:
    server.fault = lambda text, _before: 403 if text == "BAD 3" else None
    with pytest.raises(UserError, match=r"a line of its batch: endpoint 403"):
        ask(server.url)
    server.fault = lambda _text, _before: None
    assert said(ask(server.url)) == expected()
    assert server.asked == dict.fromkeys(RESPONSES, 1) | {"BAD 3": 2}


def test_lines_sent_again_are_requests_and_the_budget_is_looked_at_before_them(server: FakeBatches) -> None:
    server.fault = lambda text, _before: 503 if "BAD" in text else None  # seven of the 21
    tokens = 14 * answer({"max_tokens": 1, "messages": [{"content": ""}]}, "")["usage"]["total_tokens"]
    for name, most in (("max_requests", 21 + 6), ("max_tokens", tokens)):
        begun, asked = server.begun, judge(server.url, **{name: most})
        with pytest.raises(UserError, match=rf"judge.endpoint.{name}: {most}:"):
            asked.opinions([f"{name} {q}" for q in REQUESTS], RESPONSES)
        assert server.begun == begun + 1
        assert asked.counts()["requests"] == 21
    asked = judge(server.url, max_requests=21 + 7, max_tokens=tokens + 1, max_retries=1)
    assert left_open(asked.opinions(REQUESTS, RESPONSES)) == 7
    assert asked.counts() == {
        "judged_prompts": 21,
        "requests": 28,
        "retries": 7,
        "endpoint_tokens": tokens,
        "endpoint_written": asked.counts()["endpoint_written"],
    }


def test_an_answer_that_tells_no_total_of_its_tokens_costs_what_it_read_and_wrote(server: FakeBatches) -> None:
    server.usage = {"prompt_tokens": 7, "completion_tokens": 3}
    asked = judge(server.url)
    asked.opinions(REQUESTS, RESPONSES)
    counts = asked.counts()
    assert (counts["endpoint_tokens"], counts["endpoint_written"]) == (21 * 10, 21 * 3)
    config = JudgeConfig(backend="openai", endpoint=EndpointConfig(prompt_price=1e6, answer_price=1e7))
    assert spent(TriageConfig(judge=config), counts) == Spend(21, 210, 21 * 7 + 21 * 3 * 10)


def test_requests_about_a_batch_that_fail_for_now_are_repeated(server: FakeBatches) -> None:
    server.trouble = lambda _path, before: (
        503 if before == 0 else 200
    )  # the list, the file, its batch, a look, both contents
    assert said(ask(server.url)) == expected()
    assert server.begun == 1
    assert {path.rpartition("/")[2].split("?")[0] for path in server.seen} == {"batches", "files", "batch-1", "content"}
    assert min(server.seen.values()) == 2


def test_a_file_may_take_longer_than_a_request(server: FakeBatches) -> None:
    server.pieces, server.pause = 14, 0.1
    assert said(judge(server.url, timeout_s=1.2, max_retries=4).opinions(REQUESTS, RESPONSES)) == expected()


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
