"""What a triage asks of S3, in its manifest as the server saw it: few requests a row, and no listing for each block."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter

import pytest

from tests.support.in_process import triage_in_process
from tests.support.proxy import FaultyProxy
from tests.support.s3 import S3Server
from trace_ray.config import Config, CorpusConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import ClauseConfig, PolicyConfig, RuleConfig
from trace_ray.runs.artifacts import Run
from trace_ray.storage import traffic
from trace_ray.storage.location import locate
from trace_ray.triage.stage import run_triage

POLICY = PolicyConfig(text="x", clauses=[ClauseConfig(id="short", text="y", rule=RuleConfig(max_words=2))])
ROWS = 4000
DATA = re.compile(r"/(corpus/|runs/run-|pieces/piece-\d+\.arrow$|verdicts/|(triaged|rejects)/part-|review/)[^?]*$")


def triaged(storage: StorageConfig, lines: str, rows_per_part: int) -> Run:
    base = locate(f"s3://lake/{uuid.uuid4().hex}", storage)
    (base / "corpus" / "x.jsonl").write_text(lines)
    corpus = CorpusConfig(paths=(f"{base.uri}/corpus",), rows_per_part=rows_per_part)
    config = Config(
        policy=POLICY, corpus=corpus, triage=TriageConfig(judge=JudgeConfig(backend="rules")), storage=storage
    )
    traffic.take()
    run_triage(Run(base / "run"), config)
    return Run(base / "run")


def test_requests_are_counted_few_and_without_a_listing_a_block(
    s3: StorageConfig, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    triage_in_process(monkeypatch)
    lines = "".join(
        json.dumps({"prompt": f"q{i}", "chosen": "a b c" if i % 2 else "a", "rejected": f"b{i}"}) + "\n"
        for i in range(ROWS)
    )
    listings, besides, totals = [], [], []
    for blocks in (16, 2):
        with FaultyProxy(("127.0.0.1", s3_server.port), {}) as proxy:
            run = triaged(
                StorageConfig(endpoint=proxy.endpoint, region=s3.region, max_attempts=2), lines, ROWS // blocks
            )
            asked = [line for line in proxy.requests if "/corpus/x.jsonl" not in line or not line.startswith("PUT")]
        kinds = Counter(traffic.kind_of(*line.split()[:2]) for line in asked)
        told = run.triaged.manifest()["requests"]
        assert set(told) == {"read", "regroup", "judge", "decide"}
        total = Counter[str]()
        for step in told.values():
            total.update(step)
        after = 16  # the account, the manifests and the end of triaged/work
        assert all(kinds[kind] - after <= total[kind] <= kinds[kind] for kind in ("get", "put", "list", "head"))
        assert total["bytes_out"] > total["bytes_in"] / 4 > 1e4
        beside = [line for line in asked if not DATA.search(line)]
        listings.append(kinds["list"])
        besides.append(len(beside))
        totals.append(len(asked))
    assert listings[0] == listings[1] < 50
    each_block, each_block_in_all = ((most - least) / 14 for most, least in (besides, totals))
    assert each_block <= 2
    assert each_block_in_all <= 7
    assert besides[1] - 2 * each_block < 100
    # So 100,000 rows in blocks of 1,563 cost 64 x 2 + 100 requests beside the data: 2.3 a thousand rows.
    assert (64 * each_block + 100) / 100 <= 5
