"""Synthetic pairs for ``scale``: distinct, 100 to 400 characters a text, as parquet files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = (
    *(
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
    ),
    *("near", "an", "old", "river", "bank", "at", "dawn"),
)


def write_corpus(folder: Path, rows: int, file_rows: int) -> int:
    """Writes parquet files of distinct pairs; returns their bytes."""
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
