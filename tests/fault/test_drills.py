"""Fault x stage on a real local cluster: each ends with the undisturbed run's results. `make faults`, 20 minutes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.drill import STAGES, Drill, compare, keep
from tests.support.cluster import TokenCluster, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOLERANCE = {"triage": 1e-6, "impact": 1e-4, "realign": 1e-5, "evaluate": 0.0}
"""Batches differ after a fault, and with them the last bits of float32 sums."""


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    kept = os.environ.get("DRILL_FOLDER")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("drill")
    folder.mkdir(exist_ok=True)
    with TokenCluster({}) as cluster:
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
        difference = compare(drill.base, run, "triage")
        keep({"stage": "triage", "fault": "full disk", "seconds": seconds, "largest difference": difference})
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_the_judge_pool_grows_and_the_cluster_shrinks(drill: Drill) -> None:
    """Autoscaling as the pool sees it: nodes join while triage runs and leave while impact runs."""
    run = drill.prepared("triage", "autoscaled")
    pool = ["triage.judge.max_actors=5", "triage.judge.batch_rows=4", "corpus.rows_per_part=16"]
    driver = drill.driver("triage", run, *pool)
    wait_for(lambda: bool(list(run.glob("triaged/work/judge/*.json"))), 200, "the first block")
    extra = [drill.cluster.add_node(cpus=1) for _ in range(2)]
    largest = 0
    while driver.poll() is None:
        largest = max(largest, len(drill.cluster.processes("ray::", "JudgeActor")))
        time.sleep(0.2)
    assert driver.returncode == 0
    assert compare(drill.base, run, "triage") <= TOLERANCE["triage"]
    driver = drill.driver("impact", run)
    for i, node in enumerate(extra, 1):
        wait_for(lambda: len(list(run.glob("impact/scores/*.parquet"))) >= 3 * i, 200, "scores")  # noqa: B023
        drill.cluster.kill_node(node)
    assert driver.wait(timeout=300) == 0
    assert compare(drill.base, run, "impact") <= TOLERANCE["impact"]
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
    assert compare(drill.base, run, "impact") <= TOLERANCE["impact"]
