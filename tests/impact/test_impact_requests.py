"""What scoring asks of S3, in the manifest as the server saw it: a fixed part, and a few requests a shard."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.impact.stage_runs import PAIRS, config, triaged_run
from tests.support.in_process import impact_in_process
from tests.support.proxy import FaultyProxy
from tests.support.s3 import S3Server
from trace_ray.config import StorageConfig
from trace_ray.impact.stage import run_impact
from trace_ray.runs.artifacts import Run
from trace_ray.storage import traffic
from trace_ray.storage.location import locate


def test_requests_are_counted_and_few_a_shard(
    s3: StorageConfig, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    impact_in_process(monkeypatch)
    made = triaged_run(tmp_path)
    asked: dict[int, Counter[str]] = {}
    for shard_rows in (7, 42):
        with FaultyProxy(("127.0.0.1", s3_server.port), {}) as proxy:
            place = locate(
                f"s3://lake/{uuid.uuid4().hex}",
                StorageConfig(endpoint=proxy.endpoint, region=s3.region, max_attempts=2),
            )
            for file in made.triaged.place.files():
                (place / "triaged" / file.name).write_bytes(file.read_bytes())
            before = len(proxy.requests)
            run_impact(Run(place), config(shard_rows=shard_rows))
            lines = proxy.requests[before:]
        kinds = Counter(traffic.kind_of(*line.split()[:2]) for line in lines)
        told = Run(place).scored.manifest()["requests"]
        assert set(told) == {"survey", "direction", "score"}
        total = sum((Counter(step) for step in told.values()), Counter[str]())
        around = 12  # the stage's claim before, and its two manifests after
        assert all(kinds[kind] - around <= total[kind] <= kinds[kind] for kind in ("get", "put", "list", "head"))
        assert total["bytes_out"] > 1e4
        asked[shard_rows] = kinds
    more = -(-PAIRS // 7) - -(-PAIRS // 42)
    assert asked[7]["list"] == asked[42]["list"] < 20
    assert (sum(asked[7].values()) - sum(asked[42].values())) / more <= 4, "its pairs, its rows, its tally"
