"""The label noise that stage 2 lays over triaged/ is counted and recorded."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import NoiseConfig, StorageConfig
from trace_ray.corpus.noise import NOISE, record_noise
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(locate(str(tmp_path), StorageConfig()))
    made.triaged.begin({})
    for part in range(2):
        rows = [
            {"row": i, "pair_id": f"{part} {i}", "split": "train" if i < 80 else "test", "category": "RETAIN"}
            for i in range(100)
        ]
        (made.triaged.place / f"part-{part}.parquet").write_parquet(pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA))
    made.triaged.publish(counts={"triaged": 200, "train RETAIN": 160, "test RETAIN": 40}, seconds=0)
    return made


def test_counts_are_those_that_training_sees(run: Run) -> None:
    counts, noise = record_noise(run, NoiseConfig(flip=0.3, swap=0.2))
    flipped = noise["noise flip"]
    assert 0 < flipped < 160
    assert counts["train RETAIN"] == 160 - flipped
    assert counts["train INVERT"] + counts["train PUNISH"] == flipped
    assert (counts["test RETAIN"], counts["triaged"]) == (40, 200)
    record = (run.impact.place / NOISE).read_parquet().to_pylist()
    assert len(record) == sum(noise.values())
    assert {row["kind"] for row in record} == {"flip", "swap"}


def test_without_noise_nothing_is_written(run: Run) -> None:
    counts, noise = record_noise(run, NoiseConfig())
    assert counts["train RETAIN"] == 160
    assert noise == {}
    assert not (run.impact.place / NOISE).exists()
