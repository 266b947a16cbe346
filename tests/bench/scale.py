"""What millions of synthetic pairs cost: seconds, the driver's share, memory, files and requests.

    python tests/bench/scale.py --rows 1000000 [--file-rows 100000] [--s3] [--folder DIR]

Triage with the rules judge, so that everything but a model's time is measured: reading, parsing, ids, regrouping, parts,
accounting. ``--s3``: corpus and run in an S3 server on loopback, whose requests are counted by a proxy before it.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.scale_corpus import write_corpus
from tests.bench.watch import Watch
from trace_ray.config import StorageConfig
from trace_ray.config.load import load_config
from trace_ray.pipeline import run_folder, run_stages

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


def triage(folder: Path, rows: int, file_rows: int, *, s3: bool) -> dict[str, Any]:
    """Returns the figures of one triage; every row is accounted for."""
    corpus_mb = round(write_corpus(folder / "corpus", rows, file_rows) / 1e6, 1)
    settings, storage, base = list(SETTINGS), StorageConfig(), str(folder)
    with ExitStack() as stack:
        requests: list[str] = []
        if s3:
            storage, requests, base = _served(stack, folder)
            settings += [f"storage.endpoint={storage.endpoint}", f"storage.region={storage.region}"]
        config = load_config([], [*settings, f"corpus.paths=['{base}/corpus']"])
        run = run_folder(f"{base}/run", storage)
        with Watch() as watch:
            run_stages(run, config, ["triage"])
        manifest = run.triaged.manifest()
        counts, seconds = manifest["counts"], watch.seconds
        assert counts["triaged"] + counts["rejects"] == rows, counts
        kinds = Counter("LIST" if "list-type" in line else line.split()[0] for line in requests)
        return {
            "part": "triage",
            "rows": rows,
            "corpus_mb": corpus_mb,
            "rows_per_second": round(rows / seconds),
            "parts": len(manifest["parts"]),
            **watch.figures(),
            **({"requests": dict(kinds), "requests_a_1000_rows": round(1000 * len(requests) / rows, 2)} if s3 else {}),
            "requests_by_step": manifest.get("requests"),
        }


def _served(stack: ExitStack, folder: Path) -> tuple[StorageConfig, list[str], str]:
    """Starts a server that holds the corpus; returns how to reach it, the requests as they come, and where."""
    from tests.support.proxy import FaultyProxy
    from tests.support.s3 import CREDENTIALS, S3Server
    from trace_ray.storage.location import locate

    os.environ.update(CREDENTIALS | {"TRACE_RAY_CACHE": str(folder / "cache")})
    server = stack.enter_context(S3Server())
    server.make_bucket("lake")
    proxy = stack.enter_context(FaultyProxy(("127.0.0.1", server.port), {}))
    storage = StorageConfig(endpoint=proxy.endpoint, region="us-east-1")
    for file in sorted((folder / "corpus").iterdir()):
        locate(f"s3://lake/corpus/{file.name}", storage).upload(file)
    proxy.requests.clear()
    return storage, proxy.requests, "s3://lake"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--file-rows", type=int, default=100_000)
    parser.add_argument("--folder", default="")
    parser.add_argument("--s3", action="store_true")
    asked = parser.parse_args()
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="scale"))
    figures = triage(folder, asked.rows, asked.file_rows, s3=asked.s3)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if not asked.folder:
        shutil.rmtree(folder)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
