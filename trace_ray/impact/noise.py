"""Stage 2's view of triaged/ with the label noise of ``corpus.noise`` laid over it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from trace_ray.config import NoiseConfig
from trace_ray.corpus.noise import noise_counts, noise_record, noisy_table
from trace_ray.runs.artifacts import Run

NOISE = "noise.parquet"


def record_noise(run: Run, noise: NoiseConfig) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns triage's counts with ``train CATEGORY`` as training will see them, and how many rows are damaged, by kind.

    Each damaged row is written to impact/noise.parquet; without noise nothing is, and triage's own counts are returned.
    """
    counts: dict[str, Any] = run.triaged.manifest()["counts"]
    if not noise.flip and not noise.swap:
        return counts, {}
    tables = [part.read_parquet(["pair_id", "split", "category"]) for part in run.triaged.parts()]
    record = pa.concat_tables([noise_record(table, noise) for table in tables])
    (run.impact.place / NOISE).write_parquet(record)
    seen: Counter[str] = Counter()
    for table in tables:
        rows = noisy_table(table, noise).select(["split", "category"]).to_pylist()
        seen.update(f"{row['split']} {row['category']}" for row in rows)
    kept = {name: value for name, value in counts.items() if not name.startswith(("train ", "test "))}
    return kept | dict(seen), noise_counts(record)
