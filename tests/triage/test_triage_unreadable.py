"""A judge whose answers cannot be read stops a triage, or an evaluation, in one line; it never ends in rows of ABSTAIN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import blocks_in_process, done
from tests.triage.test_triage_workers import asking, run, task
from trace_ray.config import EvaluateConfig, TriageConfig
from trace_ray.errors import JudgeRejectedError
from trace_ray.evaluate.stage import refuse_unreadable
from trace_ray.judges.unreadable import Unread
from trace_ray.triage import judging, running
from trace_ray.triage.account import ReadRows
from trace_ray.triage.judge_worker import JudgeActor
from trace_ray.triage.work import Work

READ = {"chosen": "BAD c", "rejected": "good r"}
MUTE = {"chosen": "MUMBLE c", "rejected": "MUMBLE r"}


@pytest.fixture
def fake() -> Iterator[FakeEndpoint]:
    server = FakeEndpoint()
    yield server
    server.close()


def rows(*kinds: dict[str, str]) -> list[dict[str, str]]:
    return [{side: f"{text}{i}" for side, text in kind.items()} for i, kind in enumerate(kinds)]


def judge(folder: Path, config: TriageConfig, pairs: list[dict[str, str]], blocks: int) -> Any:
    known = task(folder, pairs, config, blocks=blocks)
    return judging.judge_corpus(known, ReadRows(len(pairs), 0, blocks), {})


def test_a_judge_that_cannot_read_one_candidate_is_refused_before_the_corpus(
    fake: FakeEndpoint, tmp_path: Path
) -> None:
    pairs = rows(*[MUTE] * 20)
    known = task(tmp_path, pairs, TriageConfig(judge=asking(fake)))
    with pytest.raises(JudgeRejectedError, match=r"triage.judge: 32 responses judged: judge m gave no verdict on 32"):
        done(JudgeActor(known, {}))
    assert sum(fake.asked.values()) == 32


def test_a_limit_of_one_lets_such_a_judge_pass(fake: FakeEndpoint, tmp_path: Path) -> None:
    known = task(tmp_path, rows(*[MUTE] * 4), TriageConfig(judge=asking(fake), max_unreadable=1.0))
    assert done(JudgeActor(known, {}))["block"] == 0


def test_the_share_is_looked_at_while_judging_goes_on(
    fake: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "FIRST", 20)
    one_by_one = lambda worker, arguments, blocks, *_: (  # noqa: E731  as a pool gives them
        tally for block in blocks for tally in running.run_blocks(worker, arguments(), [block])
    )
    monkeypatch.setattr(running, "in_pool", one_by_one)
    config = TriageConfig(judge=asking(fake), min_canary_pass=0.0)
    with pytest.raises(JudgeRejectedError, match=r"limit triage.max_unreadable=0.5; most often: unreadable"):
        judge(tmp_path, config, rows(READ, *[MUTE] * 39), 40)
    done = Work.of(run(tmp_path)).finished("judge")
    assert 10 <= sum(tally["rows"] for tally in done.values()) < 40


@pytest.mark.parametrize(("limit", "refused"), [(0.49, True), (0.5, False)])
def test_the_share_over_all_is_held_where_the_corpus_is_small(
    fake: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, refused: bool
) -> None:
    blocks_in_process(monkeypatch)
    config = TriageConfig(judge=asking(fake), max_unreadable=limit)
    if refused:
        with pytest.raises(JudgeRejectedError, match="gave no verdict on 4 of them"):
            judge(tmp_path, config, rows(READ, READ, MUTE, MUTE), 1)
    else:
        assert judge(tmp_path, config, rows(READ, READ, MUTE, MUTE), 1)["responses_judged"] == 8


def test_a_second_judge_is_held_to_it_too(fake: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks_in_process(monkeypatch)
    other = FakeEndpoint()
    other.odd = {f"{text}{i}": answer_of("Well") for text in READ.values() for i in range(4)}
    config = TriageConfig(judge=asking(fake), second_judge=asking(other))
    with pytest.raises(JudgeRejectedError, match=r"triage.second_judge: 8 responses judged"):
        judge(tmp_path, config, rows(*[READ] * 4), 1)
    other.close()


def answer_of(token: str) -> dict[str, Any]:
    top = [{"token": token, "logprob": -0.01}]
    return {"choices": [{"message": {"content": token}, "logprobs": {"content": [{"top_logprobs": top}]}}]}


def test_an_evaluation_whose_judge_cannot_be_read_is_stopped() -> None:
    mute = {"p_violates": None, "judge_error": "too long for the judge: 900 tokens of 512"}
    answers: list[dict[str, Any]] = [mute, mute, {"p_violates": 0.2, "judge_error": None}]
    refuse_unreadable(EvaluateConfig(max_unreadable=0.7), answers)
    with pytest.raises(JudgeRejectedError, match=r"evaluate.judge: .*evaluate.max_unreadable=0.5; .*too long for the"):
        refuse_unreadable(EvaluateConfig(), answers)


def test_nothing_judged_is_no_reason() -> None:
    Unread("triage.judge", "m", "triage.max_unreadable", 0.0).refuse()
