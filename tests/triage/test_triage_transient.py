"""What an endpoint fails to answer is asked again, at the end of a run and at its resume; it is never kept as a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.judges.test_openai_judge import judge as endpoint_judge
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import done
from tests.triage.test_triage_workers import PUNISH, asking, run, task
from trace_ray.config import Config, TriageConfig
from trace_ray.errors import UserError
from trace_ray.triage import running
from trace_ray.triage.account import ReadRows
from trace_ray.triage.calibrate import Calibration, Decision
from trace_ray.triage.deciding import decide_corpus
from trace_ray.triage.judge_worker import JudgeActor
from trace_ray.triage.judging import judge_corpus
from trace_ray.triage.work import Work

READ = ReadRows(3, 0, 1)
UNLUCKY = "BAD c1"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    def pooled(worker: Any, arguments: Any, items: list[Any], _pool: Any) -> Iterator[Any]:
        if items:
            actor = worker(*arguments())
            yield from (json.loads(done(actor, **item)["tally"]) for item in items)

    monkeypatch.setattr(running, "_pooled", pooled)
    server = FakeEndpoint()
    yield server
    server.close()


def triage(fake: FakeEndpoint, folder: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    config = Config(triage=TriageConfig(judge=asking(fake, max_retries=0), min_canary_pass=0.0, **more))
    known = task(folder, PUNISH, config.triage)
    counts = judge_corpus(known, READ, {})
    decided = decide_corpus(known, READ.made, Decision(Calibration(), 0.5, 0.0), {}, counts)
    rows = known.work.triaged.files(".parquet")[0].read_parquet().to_pylist()
    return decided, {row["chosen"]: row for row in rows}


def failing(fake: FakeEndpoint, answers_from: int, text: str = UNLUCKY) -> None:
    """Answers it once, as a canary's candidate, and then again from a time on."""
    fake.fault = lambda seen, before: (503, {}) if seen == text and 1 <= before < answers_from else None


def test_what_failed_in_its_block_is_asked_once_more_at_the_end(fake: FakeEndpoint, tmp_path: Path) -> None:
    failing(fake, answers_from=2)
    _, rows = triage(fake, tmp_path)
    assert rows[UNLUCKY]["category"] == "PUNISH"
    assert rows[UNLUCKY]["judge_error"] is None
    assert [fake.asked[text] for text in ("BAD c0", UNLUCKY)] == [2, 3]


def test_what_still_fails_at_the_end_is_abstain_with_its_reason(fake: FakeEndpoint, tmp_path: Path) -> None:
    failing(fake, answers_from=99)
    _, rows = triage(fake, tmp_path)
    assert rows[UNLUCKY]["category"] == "ABSTAIN"
    assert "503" in rows[UNLUCKY]["judge_error"]
    assert {row["category"] for text, row in rows.items() if text != UNLUCKY} == {"PUNISH"}


def test_a_resume_asks_again_for_what_failed_and_for_nothing_else(fake: FakeEndpoint, tmp_path: Path) -> None:
    failing(fake, answers_from=2)
    config = TriageConfig(judge=asking(fake, max_retries=0), min_canary_pass=0.0)
    known = task(tmp_path, PUNISH, config)
    actor = JudgeActor(known, {})
    assert json.loads(done(actor, last=False)["tally"]) == {"rows": 0, "left": 0}
    assert Work.of(run(tmp_path)).finished("judge") == {}
    (used,) = Work.of(run(tmp_path)).unfinished_use()
    before = sum(fake.asked.values())
    assert used["requests"] == before
    triage(fake, tmp_path, audit_sample=0)
    assert sum(fake.asked.values()) == before + 1


def test_a_draft_that_failed_is_written_at_the_end(fake: FakeEndpoint, tmp_path: Path) -> None:
    fake.fault = lambda seen, before: (503, {}) if seen == UNLUCKY and before == 2 else None
    decided, rows = triage(fake, tmp_path, correct=True, corrector="judge")
    assert rows[UNLUCKY]["corrected"] == "GOOD, corrected"
    assert (decided.counts["corrections_kept"], decided.counts.get("unsettled", 0)) == (3, 0)


def test_an_endpoint_that_is_down_stops_the_run_and_one_text_that_it_cannot_bear_does_not(fake: FakeEndpoint) -> None:
    fake.fault = lambda seen, _before: (500, {}) if seen == "cursed" else None
    (opinion,) = endpoint_judge(fake, max_retries=0).opinions(["q"], ["cursed"])
    assert (opinion.p_violates, opinion.final) == (None, False)
    fake.fault = lambda _seen, _before: (500, {})
    with pytest.raises(UserError, match="see that it is up"):
        endpoint_judge(fake, max_retries=0).opinions(["q"], ["fine"])
