"""The workers of triage, one block a call, in this process: what they leave on disk and what they pick up from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_endpoint import FakeEndpoint
from trace_ray.artifacts import Run
from trace_ray.config import CorpusConfig, EndpointConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.corpus.blocks import Group, read_block, regroup
from trace_ray.corpus.read import Source
from trace_ray.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.storage import locate
from trace_ray.triage.audit import Labelled, audit
from trace_ray.triage.labels import Label
from trace_ray.triage.work import CANARIES, Work
from trace_ray.triage.workers import JudgeActor, Task

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


def task(folder: Path, rows: list[dict[str, str]], config: TriageConfig, blocks: int = 1, **more: Any) -> Task:
    """What the workers of a triage of these rows know, the corpus read."""
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"prompt": f"q{i}", **row}) + "\n" for i, row in enumerate(rows)))
    work = Work.of(Run(locate(str(folder / "run"), StorageConfig())))
    source = Source(locate(str(corpus), StorageConfig()), 0, "")
    regroup(Group(0, (source,), 0), CorpusConfig(), blocks, work.runs, work.rejects)
    known: dict[str, Any] = {"policy": POLICY, "work": work, "stores": {}, "deaths": 0} | more
    return Task(config=config, blocks=blocks, **known)


def test_a_repeated_pair_is_audited_once(tmp_path: Path) -> None:
    rows = [INVERT | {"prompt": "q"}, {"chosen": "a", "rejected": "b c d"}, INVERT | {"prompt": "q"}]
    config = TriageConfig(judge=RULES, audit_labels="from_pairs")
    told = json.loads(JudgeActor(task(tmp_path, rows, config), None, 1)({"block": 0})["tally"])
    labelled = [Labelled(pair, Label(*label), a, b) for pair, label, a, b in told["labelled"]]
    assert [one.p_chosen for one in labelled] == [1.0, 0.0]
    assert audit(labelled, config)["pairs"] == 2


def test_canaries_are_tried_though_the_first_block_is_empty(fake: FakeEndpoint, tmp_path: Path) -> None:
    known = task(tmp_path, PUNISH[:1], TriageConfig(judge=asking(fake)), blocks=16)
    assert read_block(known.work.runs, 0).num_rows == 0
    JudgeActor(known, {}, 0)({"block": 0})
    assert json.loads((known.work.place / CANARIES).read_text())["seeds"] == 2


def test_pairs_are_put_in_order_by_their_ids_alone() -> None:
    """As an earlier version recorded a repeated pair."""
    pairs = [Labelled("a", Label(False, True), p, p) for p in (0.9, None)]
    assert audit(pairs, TriageConfig(audit_labels="x"))["readable"] == 0.5
