"""One stage of a run on a real two-node cluster, struck while it works, then compared with the undisturbed run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support.cluster import TokenCluster, wait_for
from trace_ray.config import StorageConfig
from trace_ray.config.sources import conf_folder
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location, locate
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
    "impact.shard_rows=2",  # so many shards that scoring lasts long enough to be struck, on a fast machine too
    "impact.gold_size=12",
    "realign.num_cpus=1",
    "realign.checkpoint_steps=5",
    "realign.batch=8",
]
TOLERANCE = {"triage": 1e-4, "impact": 1e-4, "realign": 1e-4, "evaluate": 0.0}
"""Batches and sums differ after a fault, and with them the last bits of float32: of probabilities; of log-probs and
scores, relative where they exceed 1; of weights, a fifth of what one step changes. Answers are equal."""

NOTICE_SECONDS = 20


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
    "impact": Work("impact/scores/*.json", 4, "ray::Worker"),
    # The second one is written after the first was reported: there is one to go on from.
    "realign": Work("realign/checkpoints/checkpoint_*/cursor.json", 2, "RayTrainWorker"),
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
        train.write_text(train.read_text() + "{broken\n")
        self.overrides = [*corpus, *SMALL]
        self.seconds: dict[str, float] = {}

    @property
    def base_run(self) -> Run:
        return local(self.base)

    def undisturbed(self) -> None:
        """Runs every stage once, or takes what an earlier session of drills left in the folder."""
        kept = self.folder / "seconds.json"
        self.seconds = json.loads(kept.read_text()) if kept.exists() else {}
        for stage in STAGES:
            if all((self.base / name / "_DONE").exists() for name in FOLDERS[stage]):
                manifest = json.loads((self.base / FOLDERS[stage][-1] / "manifest.json").read_text())
                self.seconds.setdefault(stage, manifest["seconds"])
                continue
            started = time.monotonic()
            self.ends(stage, self.base)
            self.seconds[stage] = round(time.monotonic() - started, 1)
            kept.write_text(json.dumps(self.seconds))

    def driver(self, stage: str, run: Path | str, *more: str, before: str = "") -> subprocess.Popen[bytes]:
        """Starts `trace-ray STAGE` as a process of its own, joined to the cluster.

        Args:
            before: Python code for that process to run first.
        """
        address = {"RAY_ADDRESS": f"127.0.0.1:{self.cluster.gcs_port}"}
        program = ["-c", f"{before}\nfrom trace_ray.cli.app import main\nmain()"] if before else ["-m", "trace_ray.cli"]
        command = [sys.executable, *program, stage, "-c", str(conf_folder() / "examples" / "demo.yaml")]
        arguments = [*command, "--run", str(run), *self.overrides, *more]
        with self.log(run).open("ab") as log:
            return subprocess.Popen(arguments, env=self.cluster.environment | address, stdout=log, stderr=log)

    def log(self, run: Path | str) -> Path:
        return self.folder / f"{Path(run).name}.log"

    def said(self, run: Path | str) -> str:
        """Returns the last line that a driver of the run printed."""
        return self.log(run).read_text().splitlines()[-1]

    def ends(self, stage: str, run: Path | str, *more: str, code: int = 0, before: str = "") -> None:
        """Runs a stage to its end, which has to be with this exit code."""
        got = self.driver(stage, run, *more, before=before).wait(timeout=800)
        assert got == code, f"exit code {got}\n{self.log(run).read_text()[-3000:]}"

    def prepared(self, stage: str, name: str) -> Path:
        """Returns a copy of the undisturbed run in which ``stage`` has not begun."""
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        self.log(run).unlink(missing_ok=True)
        run.mkdir()
        self.fill(stage, run)
        return run

    def fill(self, stage: str, run: Path) -> None:
        """Copies what the stages before have made, and the settings: the day on which the run was begun is one of them."""
        shutil.copy(self.base / "config.yaml", run)
        for done in STAGES[: STAGES.index(stage)]:
            for folder in FOLDERS[done]:
                shutil.copytree(self.base / folder, run / folder)

    def at_work(self, stage: str, run: Path, driver: subprocess.Popen[bytes]) -> None:
        """Waits until the stage has done some of its work and not all of it."""
        work = WORK[stage]
        wait_for(lambda: len(list(run.glob(work.parts))) >= work.enough or driver.poll() is not None, 500, work.parts)
        assert driver.poll() is None, f"{stage} was over before the strike: {self.log(run).read_text()[-3000:]}"

    def strike(self, stage: str, fault: str) -> dict[str, Any]:
        """Runs a stage, strikes when some of its work is done, and sees it to its end.

        Returns: a row of the fault table.
        """
        run, work = self.prepared(stage, f"{stage}-{fault}"), WORK[stage]
        started = time.monotonic()
        driver = self.driver(stage, run)
        self.at_work(stage, run, driver)
        before = {path: path.stat().st_mtime_ns for path in run.glob(work.parts)}
        leaving: threading.Thread | None = None
        match fault:
            case "worker":
                self.cluster.worker(work.process).kill()
            case "driver":
                driver.kill()
            case "node":
                self.cluster.kill_node(self.cluster.node_of(work.process))
                self.cluster.add_node(cpus=2)
            case "drain":
                leaving = self._drain(work.process)
        code, restarts = driver.wait(timeout=800), 0
        while code != 0 and restarts < 2:
            restarts += 1
            code = self.driver(stage, run).wait(timeout=800)
        seconds = time.monotonic() - started
        if leaving is not None:
            leaving.join()
        assert code == 0, self.log(run).read_text()[-3000:]
        difference = compare(self.base_run, local(run), stage)
        return {
            "stage": stage,
            "fault": fault,
            "recovered": True,
            "driver restarts": restarts,
            "done before": len(before),
            "done again": None if stage in ("triage", "realign") else changed(before),  # these tidy up after themselves
            "seconds": round(seconds, 1),
            "seconds lost": round(seconds - self.seconds[stage], 1),
            "largest difference": difference,
        }

    def _drain(self, process: str) -> threading.Thread:
        """A spot notice: the node is told, a new one joins, and the old one is gone when its time is up."""
        node = self.cluster.node_of(process)
        told = self.cluster.drain(node, NOTICE_SECONDS)
        assert told.returncode == 0, told.stderr
        leaving = threading.Timer(NOTICE_SECONDS, self.cluster.kill_node, [node])
        leaving.start()
        self.cluster.add_node(cpus=2)
        return leaving


def changed(before: dict[Path, int]) -> int:
    """Returns how many of the files, each with the time it was written, are gone or were written again."""
    return sum(not path.exists() or path.stat().st_mtime_ns != when for path, when in before.items())


def local(folder: Path) -> Run:
    return Run(locate(str(folder), StorageConfig()))


def compare(undisturbed: Run, other: Run, stage: str) -> float:
    """Returns the largest difference of any number between two runs' results of a stage.

    Raises: AssertionError where rows, texts, categories or names differ, or rows in are not rows out + rejects.
    """
    match stage:
        case "triage":
            counts = other.triaged.manifest()["counts"]
            assert counts["rows_in"] == counts["triaged"] + counts["rejects"]
            assert counts == undisturbed.triaged.manifest()["counts"]
            assert counts["rejects"] > 0, "the corpus holds a broken line"
            assert table_of(other.rejects.read(), "row").equals(table_of(undisturbed.rejects.read(), "row"))
            return numbers(table_of(undisturbed.triaged.read(), "row"), table_of(other.triaged.read(), "row"))
        case "impact":
            counts = other.scored.manifest()["counts"]
            assert sum(counts.values()) == other.triaged.manifest()["counts"]["triaged"]
            return numbers(table_of(undisturbed.scored.read(), "row"), table_of(other.scored.read(), "row"))
        case "realign":
            from safetensors.numpy import load

            assert other.realign.manifest()["counts"] == undisturbed.realign.manifest()["counts"]
            assert samples(other) == samples(undisturbed), "each step saw the same pairs, none lost or repeated"
            name = "adapter/adapter_model.safetensors"
            left, right = (load((run.model.place / name).read_bytes()) for run in (undisturbed, other))
            assert left.keys() == right.keys()
            return max(float(np.abs(left[name] - right[name]).max()) for name in left)
        case _:
            assert other.evaluation.manifest()["counts"] == undisturbed.evaluation.manifest()["counts"]
            keys = [("pair_id", "ascending"), ("model", "ascending")]
            tables = [
                answers(run.evaluation.place / "responses").sort_by(keys).combine_chunks()
                for run in (undisturbed, other)
            ]
            return numbers(*tables)


def samples(run: Run) -> list[tuple[int, str]]:
    """Returns each step with the digest of the pairs it saw."""
    lines = (run.realign.place / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["samples"]) for row in map(json.loads, lines)]


def answers(place: Location) -> pa.Table:
    return pa.concat_tables([part.read_parquet() for part in place.files(".parquet")])


def table_of(table: pa.Table, key: str) -> pa.Table:
    return table.sort_by(key).combine_chunks()


def numbers(first: pa.Table, other: pa.Table) -> float:
    """Returns the largest difference of floats, relative beyond 1; everything else, nulls too, has to be equal."""
    assert first.schema.equals(other.schema)
    assert first.num_rows == other.num_rows
    largest = 0.0
    for field in first.schema:
        left, right = first[field.name], other[field.name]
        if not pa.types.is_floating(field.type):
            assert left.equals(right), field.name
            continue
        assert left.is_null().equals(right.is_null()), field.name
        a, b = (column.drop_null().to_numpy().astype(float) for column in (left, right))
        assert np.isfinite(a).all(), field.name
        assert np.isfinite(b).all(), field.name
        largest = max(largest, float((np.abs(a - b) / np.maximum(1.0, np.abs(a))).max(initial=0.0)))
    return largest


def keep(row: dict[str, Any]) -> None:
    """Appends a row to the file that FAULT_TABLE names, for this folder's README."""
    if "FAULT_TABLE" in os.environ:
        with open(os.environ["FAULT_TABLE"], "a", encoding="utf-8") as table:
            table.write(json.dumps(row) + "\n")
