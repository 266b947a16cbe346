"""Triage of millions of synthetic pairs with the rules judge: throughput, and whether the driver stays flat.

    python tests/bench/scale.py --rows 1000000 [--file-rows 100000] [--folder DIR]

The judge is code, so what is measured is everything but the judge: reading, parsing, ids, Ray Data, parts, accounting.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.pipeline import run_folder, run_stages

WORDS = [
    "please",
    "tell",
    "me",
    "how",
    "the",
    "quick",
    "brown",
    "fox",
    "came",
    "to",
    "jump",
    "over",
    "that",
    "lazy",
    "dog",
    "near",
    "an",
    "old",
    "river",
    "bank",
    "at",
    "dawn",
]
SETTINGS = [
    "policy.name=scale",
    "policy.text=At most 30 words.",
    "policy.clauses=[{id: brief, rule: {max_words: 30}}]",
    "triage.judge.backend=rules",
    "triage.judge.batch_rows=8192",
    "corpus.rows_per_part=8192",
    "corpus.holdout=0.01",
    "triage.judge.num_cpus=0.5",
]


def write_corpus(folder: Path, rows: int, file_rows: int) -> int:
    """Writes parquet files of distinct pairs, 100 to 400 characters a text; returns their bytes."""
    folder.mkdir(parents=True)
    texts = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(10 + i % 50)) for i in range(997)]
    for index, start in enumerate(range(0, rows, file_rows)):
        numbers = range(start, min(rows, start + file_rows))
        columns = {
            "prompt": [f"{n}: {texts[n % 991]}" for n in numbers],
            "chosen": [f"{texts[n % 997]} {n}" for n in numbers],
            "rejected": [f"{texts[n * 7 % 997]} {n}." for n in numbers],
        }
        pq.write_table(pa.table(columns), folder / f"part-{index:05d}.parquet", compression="zstd")
    return sum(path.stat().st_size for path in folder.iterdir())


class Watch(threading.Thread):
    """Samples this process (the driver): resident MB and open files, twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, int]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        me, started = psutil.Process(), time.monotonic()
        while not self.stop.wait(0.5):
            self.samples.append((time.monotonic() - started, me.memory_info().rss / 1e6, me.num_fds()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--file-rows", type=int, default=100_000)
    parser.add_argument("--folder", default="")
    asked = parser.parse_args()
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="scale"))
    started = time.monotonic()
    in_bytes = write_corpus(folder / "corpus", asked.rows, asked.file_rows)
    written = time.monotonic() - started
    config = load_config([], [*SETTINGS, f"corpus.paths=['{folder}/corpus']"])
    run = run_folder(str(folder / "run"), StorageConfig())
    watch = Watch()
    watch.start()
    started = time.monotonic()
    run_stages(run, config, ["triage"])
    seconds = time.monotonic() - started
    watch.stop.set()
    watch.join()
    parts = run.triaged.parts()
    counts = run.triaged.manifest()["counts"]
    assert counts["triaged"] + counts["rejects"] == asked.rows, counts
    working = [s for s in watch.samples if s[0] > 15] or watch.samples  # after imports and Ray's start
    tenth = max(1, len(working) // 10)
    memory = [sum(s[1] for s in part) / len(part) for part in (working[:tenth], working[-tenth:])]
    files = [max(s[2] for s in part) for part in (working[:tenth], working[-tenth:])]
    row = {
        "rows": asked.rows,
        "corpus_mb": round(in_bytes / 1e6, 1),
        "corpus_seconds": round(written, 1),
        "triage_seconds": round(seconds, 1),
        "rows_per_second": round(asked.rows / seconds),
        "triaged_mb": round(sum(Path(p.path).stat().st_size for p in parts) / 1e6, 1),
        "parts": len(parts),
        "driver_mb_first_tenth": round(memory[0]),
        "driver_mb_last_tenth": round(memory[1]),
        "driver_mb_most": round(max(s[1] for s in working)),
        "open_files_first_tenth": files[0],
        "open_files_last_tenth": files[1],
    }
    for name, value in row.items():
        print(f"{name:24} {value}")
    if not asked.folder:
        shutil.rmtree(folder)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
