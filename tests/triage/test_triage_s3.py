"""The steps of triage with every folder in a real S3 server: regroup, judge behind a guard, decide, account, review."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from tests.support.in_process import done
from tests.support.regrouped import regrouped
from trace_ray.config import CorpusConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.corpus.blocks import records
from trace_ray.corpus.sources import corpus_sources
from trace_ray.errors import UserError
from trace_ray.judges.opinion import Opinion
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.account import ReadRows, Refused
from trace_ray.triage.calibrate import Calibration, Decision
from trace_ray.triage.deciding import DecidedCorpus
from trace_ray.triage.guard import Guard, deaths
from trace_ray.triage.judge_worker import JudgeActor
from trace_ray.triage.work import Work
from trace_ray.triage.workers import DecideActor, Task

POLICY = PolicyConfig(text="x", clauses=[ClauseConfig(id="short", text="y", rule=RuleConfig(max_words=2))])


def test_every_step_works_there(s3: StorageConfig) -> None:
    base = locate(f"s3://lake/{uuid.uuid4().hex}", s3)
    rows = [{"prompt": f"q{i}", "chosen": "a b c" if i % 2 else "a", "rejected": f"b{i}"} for i in range(40)]
    (base / "corpus" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    config = CorpusConfig(paths=(f"{base.uri}/corpus",))
    run = Run(base / "run")
    work = Work.of(run)
    tally, files = regrouped(corpus_sources(config, s3), config, 4, work.place, work.rejects, pieces=2, run_bytes=1000)
    assert records(work.place / "runs") == [tally]
    work = replace(work, files=files)
    triage = TriageConfig(abstain_band=0.0)
    store = base / "store"
    task = Task(
        policy=POLICY,
        config=replace(triage, judge=replace(triage.judge, backend="rules")),
        work=work,
        blocks=4,
        stores={"judge": store},
        deaths=0,
    )
    judging = JudgeActor(task, None)
    deciding = DecideActor(task, Decision(Calibration(), 0.5, 0.0), {})
    for block in range(4):
        done(judging, block)
        done(deciding, block)
    assert set(work.finished("judge")) == set(work.finished("decide")) == {0, 1, 2, 3}
    decided = DecidedCorpus()
    for block, told in work.finished("decide").items():
        decided.add(work, block, told)
    decided.account.add_refused(Refused(tally["reasons"], tally["refused_sum"], tally["parts"]))
    decided.account.check(run, ReadRows(41, tally["row_sum"], 4))
    assert decided.account.reasons == {"broken_json": 1}
    assert decided.counts["train INVERT"] + decided.counts["test INVERT"] == 20


def test_marks_are_left_and_taken_back_there(s3: StorageConfig) -> None:
    place = locate(f"s3://lake/{uuid.uuid4().hex}", s3)
    assert deaths(place / "deaths") == 0

    def refuse(_requests: object, _responses: object) -> list[Opinion]:
        raise UserError("budget", 1, "spent")

    def killed(_requests: object, _responses: object) -> list[Opinion]:
        raise KeyboardInterrupt  # as a killed process: nothing is caught, nothing written

    guard = Guard(place / "block", 4, buried=place / "deaths")
    with pytest.raises(UserError):
        guard.judge(["q"], ["r"], refuse)
    assert guard.place.files() == []
    with pytest.raises(KeyboardInterrupt):
        guard.judge(["q"], ["r"], killed)
    assert len(guard.place.files()) == 1
    assert guard.judge(["q"], ["r"], lambda _q, _r: [Opinion(0.5)]) == [Opinion(0.5)]
    assert deaths(place / "deaths") == 1
