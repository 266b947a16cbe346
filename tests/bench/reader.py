"""A training worker's rows at several sizes: memory, time to start, time a row, with synthetic scored pairs.

    python -m tests.bench.reader --rows 200000,1000000,3000000 [--tokens 60] [--steps 200]

Each size in processes of its own: the first copies the rows to the node, the second reads what is copied, as the node's
other workers do. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.config import ObjectiveConfig, RealignConfig, StorageConfig
from trace_ray.impact.shard import SHARD_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

PART_ROWS, BATCH = 4096, 64
RULE = {"of": "impact", "scale": {"INVERT": 1.0, "PUNISH": 1.0}}


def write_scored(run: Run, rows: int, tokens: int) -> int:
    """Writes parts as scoring does, of random tokens: a sixth of a pair the prompt, the rest two responses; returns bytes."""
    rng = np.random.default_rng(0)
    run.scored.begin({})
    for start in range(0, rows, PART_ROWS):
        count = min(PART_ROWS, rows - start)
        (run.scored.place / f"part-{start:010d}.parquet").write_parquet(_part(rng, start, count, tokens))
    run.scored.publish(counts={}, seconds=0.0, weights=RULE)
    return sum(entry.size for entry in run.scored.place.entries())


def _part(rng: np.random.Generator, start: int, count: int, tokens: int) -> pa.Table:
    columns: dict[str, Any] = {name: pa.nulls(count, SHARD_SCHEMA.field(name).type) for name in SHARD_SCHEMA.names}
    for name, mean in (("prompt", tokens // 6), ("chosen", tokens * 5 // 12), ("rejected", tokens * 5 // 12)):
        lengths = rng.integers(1, 2 * mean, count)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = pa.array(rng.integers(0, 50_000, offsets[-1]), pa.int32())
        columns[f"{name}_ids"] = pa.ListArray.from_arrays(pa.array(offsets), ids)
    columns["pair_id"] = pa.array([f"{number:032x}" for number in range(start, start + count)])
    columns["category"] = pa.array(
        np.array(["INVERT", "PUNISH", "RETAIN", "RETAIN"], object)[rng.integers(0, 4, count)]
    )
    columns["impact"] = pa.array(rng.normal(1.0, 0.2, count))
    for name in ("chosen", "rejected"):
        columns[f"{name}_ref_logp"] = pa.array(rng.normal(-40, 5, count))
    return pa.table(columns, schema=SHARD_SCHEMA)


def peak_mb() -> dict[str, float]:
    """Returns the most that this process held, and what of it now is its own and not the file's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "own_mb": round(int(status["RssAnon"].split()[0]) / 1024, 1),
    }


def read(folder: Path, steps: int) -> dict[str, Any]:
    """Opens the rows as a worker does and takes those of ``steps`` steps."""
    from trace_ray.realign.data import TrainingRows
    from trace_ray.realign.training import step_plan

    before = peak_mb()["peak_mb"]
    started = time.monotonic()
    rows = TrainingRows.read(Run(locate(str(folder / "run"), StorageConfig())).scored, ObjectiveConfig())
    opened = time.monotonic()
    plan = step_plan(rows, RealignConfig(batch=BATCH))
    plan.step(0)
    ordered = time.monotonic()
    index = rows.index
    bytes_held = index.code.nbytes + index.prompt.nbytes + sum(lengths.nbytes for lengths in index.tokens.values())
    taken = sum(len(rows.take(plan.step(step))) for step in range(steps))
    seconds = time.monotonic() - ordered
    return {
        "rows": len(rows),
        "index_mb": round(bytes_held / 1e6, 1),
        "imports_mb": before,
        **peak_mb(),
        "open_s": round(opened - started, 2),
        "order_s": round(ordered - opened, 2),
        "ms_a_row": round(1000 * seconds / taken, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="200000,1000000,3000000")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--child", default="")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(read(Path(asked.child), asked.steps)))
        return
    sizes = [measured(int(rows), asked.tokens, asked.steps) for rows in asked.rows.split(",")]
    print(json.dumps({"tokens": asked.tokens, "sizes": sizes}))


def measured(rows: int, tokens: int, steps: int) -> dict[str, Any]:
    """Returns what one size takes: ``copying``, the node's first worker, and ``reading``, another one."""
    folder = Path(tempfile.mkdtemp(prefix="reader"))
    try:
        scored = write_scored(Run(locate(str(folder / "run"), StorageConfig())), rows, tokens)
        found: dict[str, Any] = {"scored_rows": rows, "scored_mb": round(scored / 1e6, 1)}
        for name in ("copying", "reading"):
            child = [sys.executable, "-m", "tests.bench.reader", "--child", str(folder), "--steps", str(steps)]
            environment = {**os.environ, "TRACE_RAY_CACHE": str(folder / "cache")}
            told = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
            found[name] = json.loads(told.stdout.splitlines()[-1])
        found["copy_mb"] = round(sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file()) / 1e6, 1)
        print(json.dumps(found))
        return found
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
