"""Runs whose triage is done, for tests of the impact stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.impact import world
from trace_ray.config import Config, CorpusConfig, ImpactConfig, LoraSettings, StorageConfig
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

PAIRS = 83
SMALL: dict[str, Any] = {"gold_size": 7, "shard_rows": 17, "batch_tokens": 1024, "retain_per_conflict": 1.0}


def triaged_run(place: Path) -> Run:
    """A run whose triage is done, by the oracle."""
    run = Run(locate(str(place), StorageConfig()))
    run.triaged.begin({"pairs": PAIRS})
    table = world.triaged(PAIRS)
    (run.triaged.place / "part-0.parquet").write_parquet(table)
    names = table["category"].to_pylist()
    counts = {"triaged": PAIRS} | {f"train {name}": names.count(name) for name in set(names)}
    run.triaged.publish(counts=counts, seconds=0.0, schema=TRIAGED_SCHEMA)
    return run


def config(**impact: Any) -> Config:
    lora = LoraSettings(r=4, alpha=4, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))
    return Config(model=world.POLICY, lora=lora, corpus=CorpusConfig(), impact=ImpactConfig(**{**SMALL, **impact}))


def impacts(run: Run) -> list[float]:
    rows = run.scored.read(["row", "impact"]).to_pylist()
    return [row["impact"] for row in sorted(rows, key=lambda row: row["row"]) if row["impact"] is not None]
