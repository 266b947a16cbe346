"""The workers of triage, one block a call, in this process: what they leave on disk and what they pick up from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import blocks_in_process, done
from tests.support.regrouped import regrouped
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.corpus.read import Source
from trace_ray.errors import JudgeRejectedError, UserError
from trace_ray.judges.canaries import ATTACKS, SEEDS
from trace_ray.runs.artifacts import CANARIES, Run
from trace_ray.storage.location import locate
from trace_ray.triage.account import ReadRows
from trace_ray.triage.audit import audit
from trace_ray.triage.budget import within_budget
from trace_ray.triage.calibrate import Calibration, Decision
from trace_ray.triage.deciding import decide_corpus
from trace_ray.triage.fitting import Labelled
from trace_ray.triage.judge_worker import JudgeActor
from trace_ray.triage.judging import judge_corpus
from trace_ray.triage.labelled import labelled_of
from trace_ray.triage.labels import Label
from trace_ray.triage.work import Work
from trace_ray.triage.workers import DecideActor, Task

POLICY = PolicyConfig(text="x", clauses=[ClauseConfig(id="short", text="y", rule=RuleConfig(max_words=2))])
RULES = JudgeConfig(backend="rules")
PUNISH = [{"chosen": f"BAD c{i}", "rejected": f"BAD r{i}"} for i in range(3)]
INVERT = {"chosen": "a b c", "rejected": "b"}


@pytest.fixture
def fake() -> Iterator[FakeEndpoint]:
    server = FakeEndpoint()
    yield server
    server.close()


def asking(fake: FakeEndpoint, **endpoint: Any) -> JudgeConfig:
    settings = EndpointConfig(base_url=fake.url, backoff_s=0.02, concurrency=1, **endpoint)
    return JudgeConfig(backend="openai", model="m", endpoint=settings)


def run(folder: Path) -> Run:
    return Run(locate(str(folder / "run"), StorageConfig()))


def task(folder: Path, rows: list[dict[str, str]], config: TriageConfig, blocks: int = 1, **more: Any) -> Task:
    """What the workers of a triage of these rows know, the corpus read."""
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"prompt": f"q{i}", **row}) + "\n" for i, row in enumerate(rows)))
    work = Work.of(run(folder))
    source = Source(locate(str(corpus), StorageConfig()), 0, "")
    work = replace(work, files=regrouped([source], CorpusConfig(), blocks, work.place, work.rejects)[1])
    known: dict[str, Any] = {"policy": POLICY, "work": work, "stores": {}, "deaths": 0} | more
    return Task(config=config, blocks=blocks, **known)


def test_a_repeated_pair_is_audited_once(tmp_path: Path) -> None:
    rows = [INVERT | {"prompt": "q"}, {"chosen": "a", "rejected": "b c d"}, INVERT | {"prompt": "q"}]
    config = TriageConfig(judge=RULES, audit_labels="from_pairs")
    known = task(tmp_path, rows, config)
    done(JudgeActor(known, None))
    labelled = labelled_of([known.work.verdicts(0)], None)
    assert [pair.p_chosen for pair in labelled] == [1.0, 0.0]
    assert audit(labelled, config)["pairs"] == 2


def test_what_others_of_a_run_store_meanwhile_is_asked_for_again_and_counted(tmp_path: Path) -> None:
    """Two judges of one piece of the first look: whoever ends last tells how much was judged."""
    known = task(
        tmp_path,
        PUNISH,
        TriageConfig(judge=RULES),
        stores={"judge": locate(str(tmp_path / "store"), StorageConfig())},
        stored={"judge": []},
    )
    for _ in range(2):
        done(JudgeActor(known, {}))
        assert known.work.finished("judge")[0]["counts"]["responses_judged"] == 6
    later = replace(known, stored={})  # another run's worker, which lists the store itself
    done(JudgeActor(later, {}))
    assert later.work.finished("judge")[0]["counts"]["responses_from_store"] == 6


def test_canaries_are_tried_though_the_first_block_is_empty(fake: FakeEndpoint, tmp_path: Path) -> None:
    known = task(tmp_path, PUNISH[:1], TriageConfig(judge=asking(fake)), blocks=16)
    assert known.work.pairs(0).num_rows == 0
    done(JudgeActor(known, {}))
    assert json.loads((known.work.place / CANARIES).read_text())["seeds"] == 2


def test_pairs_are_put_in_order_by_their_ids_alone() -> None:
    """As an earlier version recorded a repeated pair."""
    pairs = [Labelled("a", Label(False, True), p, p) for p in (0.9, None)]
    assert audit(pairs, TriageConfig(audit_labels="x"))["readable"] == 0.5


def test_a_judge_refused_while_it_judges_leaves_its_audit_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks_in_process(monkeypatch)
    config = TriageConfig(judge=RULES, audit_labels="some.jsonl", audit_rows=1)
    known = task(tmp_path, PUNISH, config, blocks=16)
    ids = [pair for block in range(16) for pair in known.work.pairs(block)["pair_id"].to_pylist()]
    with pytest.raises(JudgeRejectedError):
        judge_corpus(known, ReadRows(3, 0, 16), dict.fromkeys(ids, Label(True, True)))
    assert json.loads((known.work.triaged / "audit.json").read_text())["auc"] is None


def test_judging_and_correcting_share_a_budget_that_resumes_keep(
    fake: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks_in_process(monkeypatch)
    plan, decision = ReadRows(3, 0, 1), Decision(Calibration(), 0.5, 0.0)
    asked_to_judge = 6 + SEEDS * len(ATTACKS) + 6  # canaries' candidates, canaries, the block

    def triage(limit: int) -> Any:
        judge = asking(fake, max_requests=limit)
        config = Config(triage=TriageConfig(judge=judge, correct=True, corrector="judge"), policy=POLICY)
        known = task(tmp_path, PUNISH, config.triage)
        judged = judge_corpus(known, plan, {})
        return decide_corpus(known, plan.made, decision, {}, judged)

    for limit, asked in (
        (asked_to_judge - 1, asked_to_judge - 1),  # spent before the block is judged
        (asked_to_judge - 1, asked_to_judge - 1),
        (asked_to_judge + 8, asked_to_judge + 8),  # the block once more, 3 drafts, nothing to judge them
        (asked_to_judge + 8, asked_to_judge + 8),
    ):
        with pytest.raises(UserError, match="max_requests"):
            triage(limit)
        assert sum(fake.asked.values()) == asked
    decided = triage(asked_to_judge + 50)
    assert decided.counts["corrections_kept"] == 3
    recorded = [decided.used["requests"], *(used["requests"] for used in Work.of(run(tmp_path)).unfinished_use())]
    judged = Work.of(run(tmp_path)).finished("judge")[0]["counts"]["requests"]
    assert sum(recorded) + judged == sum(fake.asked.values())


def test_each_judge_has_its_own_budget_and_each_actor_its_share() -> None:
    def judge(requests: int, tokens: int = 0) -> JudgeConfig:
        endpoint = EndpointConfig(max_requests=requests, max_tokens=tokens)
        return JudgeConfig(backend="openai", endpoint=endpoint, actors=1, max_actors=4)

    triage = TriageConfig(judge=judge(100), first_judge=judge(9), second_judge=judge(0, 50), corrector_judge=judge(5))
    spent = {"requests": 20, "first_requests": 1, "second_endpoint_tokens": 30, "corrector_requests": 5}
    shared = within_budget(triage, spent, ("judge", "first_judge", "second_judge"))
    assert (shared.judge.endpoint.max_requests, shared.judge.endpoint.max_tokens) == (20, 0)
    assert shared.first_judge is not None
    assert shared.first_judge.endpoint.max_requests == 2
    assert shared.second_judge is not None
    assert (shared.second_judge.endpoint.max_requests, shared.second_judge.endpoint.max_tokens) == (0, 5)
    assert shared.corrector_judge == triage.corrector_judge
    with pytest.raises(UserError, match=r"triage.corrector_judge.endpoint.max_requests: 5: 5 used so far"):
        within_budget(triage, spent, ("judge", "corrector_judge"))


def test_a_corrector_of_its_own_is_counted_apart(fake: FakeEndpoint, tmp_path: Path) -> None:
    config = TriageConfig(judge=asking(fake), correct=True, corrector_judge=asking(fake))
    known = task(tmp_path, PUNISH, config)
    done(JudgeActor(known, {}))
    told = json.loads(done(DecideActor(known, Decision(Calibration(), 0.5, 0.0), {}))["tally"])
    assert (told["used"]["requests"], told["used"]["corrector_requests"]) == (3, 3)
