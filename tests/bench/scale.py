"""What millions of synthetic pairs cost: seconds, the driver's share, memory, files and requests, stage by stage.

    python -m tests.bench.scale --rows 1000000,3000000 [--file-rows 100000] [--s3] [--folder DIR] [--against CHECKOUT]

Triage with the rules judge and impact with ``fake_scorer``, so that everything but a model's time is measured: reading,
parsing, ids, regrouping, parts, accounting, surveys, tallies, weights; then the report of it, and a training worker that
opens what they wrote. Each size in a process of its own. ``--s3``: corpus and run in an S3 server on loopback, whose
requests a proxy before it counts. ``--against``: each size by the code of another checkout as well, before and beside.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trace_ray.synth
from tests.bench.fake_scorer import install
from tests.bench.scale_corpus import write_corpus
from tests.bench.watch import Watch
from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.pipeline import run_folder, run_stages
from trace_ray.runs.artifacts import Run

ROOT = Path(__file__).resolve().parents[2]
POLICY = Path(trace_ray.synth.__file__).with_name("models") / "policy"

SETTINGS = [
    "policy.name=scale",
    "policy.text=At most 30 words.",
    "policy.clauses=[{id: brief, rule: {max_words: 30}}]",
    "triage.judge.backend=rules",
    "triage.judge.batch_rows=8192",
    "corpus.rows_per_part=8192",
    "corpus.holdout=0.01",
    "triage.judge.num_cpus=0.5",
    f"model.path={POLICY}",
    "impact.gold_size=32",
    "impact.shard_rows=4096",  # as the examples for clusters have it
    "impact.num_cpus=1",
]


def stages(folder: Path, rows: int, file_rows: int, *, s3: bool) -> dict[str, Any]:
    """Returns the figures of triage, impact, report and the training reader; every row is accounted for."""
    os.environ["TRACE_RAY_CACHE"] = str(folder / "cache")
    corpus_mb = round(write_corpus(folder / "corpus", rows, file_rows) / 1e6, 1)
    settings, storage, base = list(SETTINGS), StorageConfig(), str(folder)
    with ExitStack() as stack:
        requests: list[str] = []
        if s3:
            storage, requests, base = _served(stack, folder)
            settings += [f"storage.endpoint={storage.endpoint}", f"storage.region={storage.region}"]
        config = load_config([], [*settings, f"corpus.paths=['{base}/corpus']"])
        run = run_folder(f"{base}/run", storage)
        _ray_with_stand_ins()
        found: dict[str, Any] = {"rows": rows, "corpus_mb": corpus_mb}
        for name in ("triage", "impact"):
            found[name] = _stage(run, config, name, rows, requests)
        counts, scored = run.triaged.manifest()["counts"], run.scored.manifest()["counts"]
        assert counts["triaged"] + counts["rejects"] == rows, counts
        assert sum(scored.values()) == counts["triaged"], (scored, counts)
        with Watch() as watch:
            run_stages(run, config, ["report"])
        found["report"] = watch.figures()
    found["code"] = _code()
    if not s3 and importlib.util.find_spec("trace_ray.realign.node_copy"):  # older code read whole tables
        found["reader"] = _reader(folder)
    return found


def _code() -> str:
    """Returns the folder of the package that driver and workers have imported."""
    import ray

    worker: str = ray.get(ray.remote(lambda: str(Path(trace_ray.__file__).resolve().parent)).remote())
    assert worker == str(Path(trace_ray.__file__).resolve().parent)
    return worker


def _ray_with_stand_ins() -> None:
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")
    hook = {"worker_process_setup_hook": install}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=hook)


def _stage(run: Run, config: Config, name: str, rows: int, requests: list[str]) -> dict[str, Any]:
    before = len(requests)
    with Watch() as watch:
        run_stages(run, config, [name])
    artifact = run.triaged if name == "triage" else run.scored
    manifest = artifact.manifest()
    asked = Counter("LIST" if "list-type" in line else line.split()[0] for line in requests[before:])
    figures: dict[str, Any] = {
        **watch.figures(),
        "driver_share": round(watch.cpu_seconds / watch.seconds, 3),
        "rows_per_second": round(rows / watch.seconds),
        "parts": len(manifest["parts"]),
    }
    if requests:
        figures |= {"requests": dict(asked), "requests_a_1000_rows": round(1000 * asked.total() / rows, 2)}
    return figures


def _reader(folder: Path) -> dict[str, Any]:
    """What a training worker takes to open the scored rows: the node's first, which copies them, and another."""
    child = [sys.executable, "-m", "tests.bench.reader", "--child", str(folder), "--steps", "100"]
    told = [subprocess.run(child, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    return {name: json.loads(text.splitlines()[-1]) for name, text in zip(("copying", "reading"), told, strict=True)}


def _served(stack: ExitStack, folder: Path) -> tuple[StorageConfig, list[str], str]:
    """Starts a server that holds the corpus; returns how to reach it, the requests as they come, and where."""
    from tests.support.proxy import FaultyProxy
    from tests.support.s3 import CREDENTIALS, S3Server
    from trace_ray.storage.location import locate

    os.environ.update(CREDENTIALS)
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
    parser.add_argument("--rows", default="200000")
    parser.add_argument("--file-rows", type=int, default=100_000)
    parser.add_argument("--folder", default="")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--against", default="", help="a checkout of older code, by which each size is run first")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="scale"))
    if asked.child:
        print(json.dumps(stages(folder, int(asked.rows), asked.file_rows, s3=asked.s3)))
        return
    sizes, older = [], []
    for rows in asked.rows.split(","):
        if asked.against:
            older.append(_apart(folder / f"{rows}-older", rows, asked, Path(asked.against)))
        sizes.append(_apart(folder / rows, rows, asked, ROOT))
    if not asked.folder:
        shutil.rmtree(folder)
    told = {"s3": asked.s3, "cpus": os.cpu_count(), "sizes": sizes, "a_million_more": _slopes(sizes)}
    print(json.dumps(told | ({"older": older} if older else {})))


def _slopes(sizes: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the driver's CPU seconds that a million rows more take, from the smallest to the largest size.

    What does not grow with the rows (imports, Ray's start) is in neither.
    """
    ordered = sorted(sizes, key=lambda size: int(size["rows"]))
    first, last = ordered[0], ordered[-1]
    more = (last["rows"] - first["rows"]) / 1e6
    names = ("triage", "impact", "report") if more else ()
    return {n: round((last[n]["driver_cpu_seconds"] - first[n]["driver_cpu_seconds"]) / more, 2) for n in names}


def _apart(folder: Path, rows: str, asked: argparse.Namespace, code: Path) -> dict[str, Any]:
    """One size in a process of its own, by one checkout's code; what it wrote goes with it, unless a folder was named."""
    child = [sys.executable, "-m", "tests.bench.scale", "--child", "--rows", rows, "--folder", str(folder)]
    child += ["--file-rows", str(asked.file_rows), *(["--s3"] if asked.s3 else [])]
    with tempfile.TemporaryDirectory() as place:  # its package alone: the benchmark is this one
        (Path(place) / "trace_ray").symlink_to(code.absolute() / "trace_ray")
        path = os.pathsep.join([place, str(ROOT)])
        done = subprocess.run(
            child, cwd=place, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert figures["code"] == str(code.resolve() / "trace_ray"), figures["code"]
    print(f"{figures['rows']} rows, {figures['corpus_mb']} MB, code of {code}", flush=True)
    for part in ("triage", "impact", "report", "reader"):
        print(f"  {part:8} {figures.get(part)}", flush=True)
    if not asked.folder:
        shutil.rmtree(folder)
    return figures


if __name__ == "__main__":
    main()
