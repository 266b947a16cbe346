"""Fault x stage on a real local cluster: each ends with the undisturbed run's results. `make faults`, 20 minutes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.drill import STAGES, Drill, compare, keep, local
from tests.support.cluster import TokenCluster, wait_for
from tests.support.proxy import FAULTS, FaultyProxy
from tests.support.s3 import CREDENTIALS, S3Server, set_credentials
from trace_ray.config import StorageConfig
from trace_ray.pipeline import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOLERANCE = {"triage": 1e-6, "impact": 1e-4, "realign": 1e-5, "evaluate": 0.0}
"""Batches differ after a fault, and with them the last bits of float32 sums."""


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    kept = os.environ.get("DRILL_FOLDER")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("drill")
    folder.mkdir(exist_ok=True)
    with TokenCluster(CREDENTIALS | {"TRACE_RAY_CACHE": str(folder / "cache")}) as cluster:
        cluster.add_node(cpus=2)
        cluster.add_node(cpus=2)
        drill = Drill(cluster, folder)
        drill.undisturbed()
        yield drill


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ["worker", "driver", "node", "drain"])
def test_a_struck_stage_ends_as_the_undisturbed_one(drill: Drill, stage: str, fault: str) -> None:
    row = drill.strike(stage, fault)
    keep(row)
    assert row["largest difference"] <= TOLERANCE[stage], row
    assert (row["driver restarts"] == 1) == (fault == "driver"), row


def test_a_full_disk_is_one_line_and_the_next_run_completes(drill: Drill) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    run = drill.folder / "full-disk"
    run.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(run)], check=True)
    try:
        started = time.monotonic()
        code = drill.driver("triage", run).wait(timeout=300)
        log = (drill.folder / "full-disk.log").read_text()
        assert code == 2, log[-3000:]
        assert "the disk is full" in log.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=64m", str(run)], check=True)
        assert drill.driver("triage", run).wait(timeout=300) == 0
        seconds = round(time.monotonic() - started, 1)
        difference = compare(drill.base_run, local(run), "triage")
        keep({"stage": "triage", "fault": "full disk", "seconds": seconds, "largest difference": difference})
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_the_judge_pool_grows_and_the_cluster_shrinks(drill: Drill) -> None:
    """Autoscaling as the pool sees it: nodes join while triage runs and leave while impact runs."""
    run = drill.prepared("triage", "autoscaled")
    pool = ["triage.judge.max_actors=5", "triage.judge.batch_rows=4", "corpus.rows_per_part=16"]
    driver = drill.driver("triage", run, *pool)
    wait_for(lambda: bool(list(run.glob("triaged/**/*.parquet"))), 200, "the first part")
    extra = [drill.cluster.add_node(cpus=1) for _ in range(2)]
    largest = 0
    while driver.poll() is None:
        largest = max(largest, len(drill.cluster.processes("ray::", "Judge")))
        time.sleep(0.2)
    assert driver.returncode == 0
    assert compare(drill.base_run, local(run), "triage") <= TOLERANCE["triage"]
    driver = drill.driver("impact", run)
    for i, node in enumerate(extra, 1):
        wait_for(lambda: len(list(run.glob("impact/scores/*.parquet"))) >= 3 * i, 200, "scores")  # noqa: B023
        drill.cluster.kill_node(node)
    assert driver.wait(timeout=300) == 0
    assert compare(drill.base_run, local(run), "impact") <= TOLERANCE["impact"]
    keep({"stage": "triage, impact", "fault": "2 nodes join, 2 leave", "judges at most": largest})
    assert largest > 2


def test_a_damaged_part_is_named_and_made_again(drill: Drill) -> None:
    run = drill.prepared("impact", "damaged")
    part = sorted(run.glob("triaged/part-*.parquet"))[3]
    part.write_bytes(part.read_bytes()[:-30])
    assert drill.driver("impact", run).wait(timeout=300) == 2
    last = (drill.folder / "damaged.log").read_text().splitlines()[-1]
    assert part.name in last
    assert "damaged" in last
    part.unlink()
    (run / "triaged" / "_DONE").unlink()
    assert drill.driver("triage", run).wait(timeout=300) == 0
    assert drill.driver("impact", run).wait(timeout=300) == 0
    assert compare(drill.base_run, local(run), "impact") <= TOLERANCE["impact"]


def test_a_run_over_a_faulty_way_to_s3_ends_as_the_undisturbed_one(
    drill: Drill, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_credentials(monkeypatch, tmp_path / "cache")
    s3_server.make_bucket("lake")
    share = dict.fromkeys(FAULTS, 0.01)
    with FaultyProxy(("127.0.0.1", s3_server.port), share, hang_seconds=6.0) as proxy:
        storage = StorageConfig(endpoint=proxy.endpoint, region="us-east-1", read_timeout_s=5.0)
        reached = [f"storage.{name}={getattr(storage, name)}" for name in ("endpoint", "region", "read_timeout_s")]
        run = run_folder("s3://lake/runs/faulty", storage)
        for stage in STAGES:
            proxy.seen.clear()
            started = time.monotonic()
            assert drill.driver(stage, run.place.uri, *reached).wait(timeout=400) == 0
            seconds = round(time.monotonic() - started, 1)
            difference = compare(drill.base_run, run, stage)
            row = {"stage": stage, "fault": "S3: 5 % of requests", "seconds": seconds, "largest difference": difference}
            keep(row | {"undisturbed": drill.seconds[stage], "faults": sum(proxy.seen.values()) - proxy.seen["passed"]})
            assert difference <= TOLERANCE[stage]
