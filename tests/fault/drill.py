"""One stage of a run on a real two-node cluster, struck while it works, then compared with the undisturbed run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.cluster import TokenCluster, wait_for
from trace_ray.artifacts import Run
from trace_ray.config import StorageConfig
from trace_ray.config_load import conf_folder
from trace_ray.storage import locate
from trace_ray.synth.demo import write_corpus

STAGES = ("triage", "impact", "realign", "evaluate")
FOLDERS = {
    "triage": ("triaged", "rejects"),
    "impact": ("impact", "scored"),
    "realign": ("realign", "model"),
    "evaluate": ("evaluation",),
}
SMALL = [
    "triage.judge.batch_rows=16",
    "corpus.rows_per_part=16",
    "impact.shard_rows=8",
    "impact.gold_size=12",
    "realign.num_cpus=1",
    "realign.checkpoint_steps=5",
    "realign.batch=8",
]


@dataclass(frozen=True)
class Work:
    """How far a stage is: the parts or checkpoints it has finished, and whose process does the work.

    Args:
        parts: of the run's folder, where finished work appears; enough: how many before the strike.
        process: a word of the title of the processes that do it.
    """

    parts: str
    enough: int
    process: str


WORK = {
    "triage": Work("triaged/work/judge/*.json", 4, "JudgeActor"),
    "impact": Work("impact/scores/*.parquet", 4, "score_rows"),
    "realign": Work("realign/checkpoints/checkpoint_*", 1, "RayTrainWorker"),
    "evaluate": Work("evaluation/generated/*.parquet", 1, "Generator"),
}


class Drill:
    """The cluster, the corpus and the undisturbed run.

    Args:
        folder: where runs are kept; an undisturbed run found there is used.
    """

    def __init__(self, cluster: TokenCluster, folder: Path) -> None:
        self.cluster, self.folder, self.base = cluster, folder, folder / "undisturbed"
        corpus = write_corpus(locate(str(folder / "corpus"), StorageConfig()))
        train = folder / "corpus" / "train.jsonl"
        if "{broken" not in train.read_text():
            train.write_text(train.read_text() + "{broken\n")
        self.overrides = [*corpus, *SMALL]
        self.seconds: dict[str, float] = {}

    def undisturbed(self) -> None:
        for stage in STAGES:
            if not all((self.base / name / "_DONE").exists() for name in FOLDERS[stage]):
                assert self.driver(stage, self.base).wait() == 0
            self.seconds[stage] = json.loads((self.base / FOLDERS[stage][-1] / "manifest.json").read_text())["seconds"]

    def driver(self, stage: str, run: Path, *more: str) -> subprocess.Popen[bytes]:
        """Starts `trace-ray STAGE` as a process of its own, joined to the cluster."""
        address = {"RAY_ADDRESS": f"127.0.0.1:{self.cluster.gcs_port}"}
        command = [sys.executable, "-m", "trace_ray.cli", stage, "-c", str(conf_folder() / "examples" / "demo.yaml")]
        log = (self.folder / f"{run.name}.log").open("ab")
        arguments = [*command, "--run", str(run), *self.overrides, *more]
        return subprocess.Popen(arguments, env=self.cluster.environment | address, stdout=log, stderr=log)

    def prepared(self, stage: str, name: str) -> Path:
        """Returns a copy of the undisturbed run in which ``stage`` has not begun."""
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        for done in STAGES[: STAGES.index(stage)]:
            for folder in FOLDERS[done]:
                shutil.copytree(self.base / folder, run / folder)
        return run

    def strike(self, stage: str, fault: str) -> dict[str, Any]:
        """Runs a stage, strikes when some of its work is done, and sees it to its end.

        Returns: a row of the fault table.
        """
        run, work = self.prepared(stage, f"{stage}-{fault}"), WORK[stage]
        started = time.monotonic()
        driver = self.driver(stage, run)
        wait_for(lambda: len(list(run.glob(work.parts))) >= work.enough or driver.poll() is not None, 300, work.parts)
        assert driver.poll() is None, f"{stage} was over before the strike, exit code {driver.returncode}"
        before = {path: path.stat().st_mtime_ns for path in run.glob(work.parts)}
        restarts = 0
        match fault:
            case "worker":
                self.cluster.worker(work.process).kill()
            case "driver":
                driver.kill()
            case "node":
                self.cluster.kill_node(self.cluster.node_of(work.process))
                self.cluster.add_node(cpus=2)
            case "drain":
                self._drain(work.process)
        code = driver.wait(timeout=400)
        while code != 0 and restarts < 2:
            restarts += 1
            code = self.driver(stage, run).wait(timeout=400)
        seconds = time.monotonic() - started
        assert code == 0, (self.folder / f"{run.name}.log").read_text()[-3000:]
        redone = sum(not path.exists() or path.stat().st_mtime_ns != when for path, when in before.items())
        difference = compare(self.base, run, stage)
        return {
            "stage": stage,
            "fault": fault,
            "recovered": True,
            "driver restarts": restarts,
            "done before": len(before),
            "done again": redone if stage != "realign" else None,
            "seconds": round(seconds, 1),
            "undisturbed": self.seconds[stage],
            "largest difference": difference,
        }

    def _drain(self, process: str) -> None:
        """A spot notice: the node is told, a new one joins, and the old one is gone when its time is up."""
        node = self.cluster.node_of(process)
        told = self.cluster.drain(node, seconds=20)
        assert told.returncode == 0, told.stderr
        self.cluster.add_node(cpus=2)
        try:
            node.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.cluster.kill_node(node)


def compare(base: Path, run: Path, stage: str) -> float:
    """Returns the largest difference of any number between two runs' results of a stage.

    Raises: AssertionError where rows, texts, categories or names differ, or rows in are not rows out + rejects.
    """
    one, other = (Run(locate(str(path), StorageConfig())) for path in (base, run))
    match stage:
        case "triage":
            counts = other.triaged.manifest()["counts"]
            assert counts["rows_in"] == counts["triaged"] + counts["rejects"]
            assert counts == one.triaged.manifest()["counts"]
            assert table_of(other.rejects.read(), "row").equals(table_of(one.rejects.read(), "row"))
            return _numbers(table_of(one.triaged.read(), "row"), table_of(other.triaged.read(), "row"))
        case "impact":
            counts = other.scored.manifest()["counts"]
            assert sum(counts.values()) == other.triaged.manifest()["counts"]["triaged"]
            return _numbers(table_of(one.scored.read(), "pair_id"), table_of(other.scored.read(), "pair_id"))
        case "realign":
            from safetensors.numpy import load_file

            assert other.realign.manifest()["counts"] == one.realign.manifest()["counts"]
            files = [f"{r.model.place.path}/adapter/adapter_model.safetensors" for r in (one, other)]
            left, right = map(load_file, files)
            assert left.keys() == right.keys()
            return max(float(np.abs(left[name] - right[name]).max()) for name in left)
        case _:
            tables = [
                pa.concat_tables([pq.read_table(p.path) for p in (r.evaluation.place / "responses").files(".parquet")])
                for r in (one, other)
            ]
            keys = [table.sort_by([("pair_id", "ascending"), ("model", "ascending")]) for table in tables]
            assert keys[0].num_rows == keys[1].num_rows
            assert (
                keys[0].select(["prompt", "model", "response"]).equals(keys[1].select(["prompt", "model", "response"]))
            )
            return 0.0


def table_of(table: pa.Table, key: str) -> pa.Table:
    return table.sort_by(key).combine_chunks()


def _numbers(one: pa.Table, other: pa.Table) -> float:
    assert one.num_rows == other.num_rows
    largest = 0.0
    for field in one.schema:
        if not pa.types.is_floating(field.type):
            assert one[field.name].equals(other[field.name]), field.name
            continue
        left, right = (np.nan_to_num(t[field.name].to_numpy(zero_copy_only=False).astype(float)) for t in (one, other))
        largest = max(largest, float(np.abs(left - right).max(initial=0.0)))
    return largest


def keep(row: dict[str, Any]) -> None:
    """Appends a row to the file that FAULT_TABLE names, for README."""
    if "FAULT_TABLE" in os.environ:
        with open(os.environ["FAULT_TABLE"], "a", encoding="utf-8") as table:
            table.write(json.dumps(row) + "\n")
