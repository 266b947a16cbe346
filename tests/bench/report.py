"""What a report costs a row: CPU seconds of its process over made-up pairs, of this tree beside another's.

    python -m tests.bench.report --rows 200000,400000 [--against TREE]

Writes triaged/, rejects/ and scored/ of each size, then has every tree read them (all sections, no pictures), one after the
other in processes of their own. The last line is one JSON object: seconds a size, and of a million rows more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.config import StorageConfig
from trace_ray.pairs import REJECT_SCHEMA, SCORED_SCHEMA, TRIAGED_SCHEMA, fitted
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

TREE = Path(__file__).parents[2]
PART_ROWS = 2048
CATEGORIES = np.array(["INVERT", "PUNISH", "RETAIN", "RETAIN", "RETAIN", "RETAIN", "RETAIN", "ABSTAIN"])
CLAUSES: list[list[str] | None] = [["brief"], ["kind", "true"], None, [], None, [], [], None]
READ = """
import json, sys, time, resource
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.report.page import report_sections
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
asked = ["triage.judge.model=some/judge", "model.path=some/model", "evaluate.judge.backend=rules"]
config = load_config([conf_folder() / "policies" / "brevity.yaml"], asked)
run = Run(locate(sys.argv[1], StorageConfig()))
before = time.process_time()
sections = report_sections(run, config)
used = time.process_time() - before
gap, impact = sections["gap"], sections["impact"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"cpu_s": round(used, 2), "peak_mb": round(peak), "pairs": gap.overall.total,
    "conflicts": gap.overall.conflicts, "clauses": {g.name: g.total for g in gap.by_clause}, "weighed": impact.pairs,
    "clamped": impact.clamped, "effective": round(impact.effective), "head": round(impact.head_share, 1)}))
"""
"""What each tree runs; the figures beside the cost say that all of them counted alike."""


def write_run(folder: Path, rows: int) -> None:
    """Writes a run of ``rows`` pairs with texts of some 500 characters, a tenth of them refused beside them."""
    run, generator = Run(locate(str(folder), StorageConfig())), np.random.default_rng(0)
    for artifact in (run.triaged, run.rejects, run.scored):
        artifact.begin({})
    for start in range(0, rows, PART_ROWS):
        numbers = np.arange(start, min(rows, start + PART_ROWS))
        name, table = f"part-block-{start // PART_ROWS:05d}", _triaged(numbers, generator)
        (run.triaged.place / f"{name}.parquet").write_parquet(fitted(table, TRIAGED_SCHEMA))
        kept = table.filter(pa.array(np.array(table["category"]) != "ABSTAIN"))
        scored = kept.append_column("impact", pa.array(generator.normal(size=len(kept))))
        shard = fitted(scored, SCORED_SCHEMA).drop_columns(["weight"])
        (run.scored.place / f"{name}-{0:09d}.parquet").write_parquet(shard)
        refused = pa.table({"row": numbers[::10], "detail": ["{broken"] * len(numbers[::10])})
        for column, value in (("source", "x"), ("stage", "triage"), ("reason", "broken_json")):
            refused = refused.append_column(column, pa.array([value] * len(refused)))
        (run.rejects.place / f"{name}.parquet").write_parquet(fitted(refused, REJECT_SCHEMA))
    run.rejects.publish(counts={"rejects": rows // 10}, seconds=1)
    facts: dict[str, Any] = {"policy": {"name": "p", "version": "1", "hash": "0"}, "judge": "j", "used": {}}
    counts = {"rows_in": rows + rows // 10, "rejects": rows // 10, "triaged": rows}
    run.triaged.publish(counts=counts, seconds=1, audit=None, **facts)
    rule = {"of": "impact", "scale": {"INVERT": 1.5, "PUNISH": 1.5}}
    run.scored.publish(counts={"RETAIN": rows}, seconds=1, summary={}, weight_norm="mean", weights=rule)


def _triaged(numbers: np.ndarray[Any, np.dtype[np.int64]], generator: np.random.Generator) -> pa.Table:
    count, kinds = len(numbers), numbers % len(CATEGORIES)
    text = "A plain sentence of some length that says nothing in particular. " * 4
    unread = numbers % 97 == 0
    p = [pa.array(generator.random(count), mask=unread), pa.array(generator.random(count), mask=unread)]
    named = [pa.array([CLAUSES[kind] for kind in some]) for some in (kinds, (kinds + 3) % len(CLAUSES))]
    return pa.table(
        {
            "row": numbers,
            "pair_id": [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in numbers],
            "source": np.array(["web", "forum", "books"])[numbers % 3],
            "split": np.where(numbers % 50 == 0, "test", "train"),
            "prompt": [[{"role": "user", "content": f"{number} {text}"}] for number in numbers],
            "chosen": [f"{text}{number}" for number in numbers],
            "rejected": [f"{number} {text}{text}" for number in numbers],
            "p_violates_chosen": p[0],
            "p_violates_rejected": p[1],
            "category": CATEGORIES[kinds],
            "judge_error": pa.array([f"chosen: unreadable: mass 0.{n}" for n in numbers], mask=~unread),
            "clauses_chosen": named[0],
            "clauses_rejected": named[1],
        }
    )


def _read(tree: Path, folder: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    child = [sys.executable, "-c", READ, str(folder)]
    told = subprocess.run(child, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, Any] = json.loads(told.splitlines()[-1])
    print(f"{tree}: {figures}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="200000,400000")
    parser.add_argument("--against", type=Path, default=None)
    asked = parser.parse_args()
    trees = {"here": TREE} | ({"against": asked.against} if asked.against else {})
    sizes = sorted(int(rows) for rows in asked.rows.split(","))
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in trees}
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="report") as folder:
            write_run(Path(folder), rows)
            for name, tree in trees.items():
                found[name][rows] = _read(tree, Path(folder))
    result: dict[str, Any] = {"sizes": found}
    if len(sizes) > 1:
        more = (sizes[-1] - sizes[0]) / 1e6
        slope = {n: (seen[sizes[-1]]["cpu_s"] - seen[sizes[0]]["cpu_s"]) / more for n, seen in found.items()}
        result["cpu_s_a_million_more"] = {name: round(seconds, 2) for name, seconds in slope.items()}
        if asked.against:
            result["ratio"] = round(slope["against"] / slope["here"], 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
