"""Fault x stage on a real local cluster: each ends with the undisturbed run's results. `make faults`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.drill import STAGES, TOLERANCE, WORK, Drill, changed, compare, keep, local
from tests.fault.test_triage_faults import command, corpus, rows
from tests.support.cluster import TokenCluster, wait_for
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.proxy import FAULTS, FaultyProxy
from tests.support.s3 import CREDENTIALS, S3Server, set_credentials
from trace_ray.config import StorageConfig
from trace_ray.pipeline import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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
    assert row["driver restarts"] == (fault == "driver"), row
    if fault == "driver":
        assert not row["done again"], row


ROOM = {"triage": 256, "impact": 256, "realign": 256, "evaluate": 48}
"""KiB that are free when a stage begins: enough to begin, not to end."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_the_next_run_completes(drill: Drill, stage: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    run = drill.folder / f"{stage}-full-disk"
    run.mkdir(exist_ok=True)
    drill.log(run).unlink(missing_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(run)], check=True)
    try:
        drill.fill(stage, run)
        size = shutil.disk_usage(run).used + (ROOM[stage] << 10)
        subprocess.run(["mount", "-o", f"remount,size={size}", str(run)], check=True)
        started = time.monotonic()
        drill.ends(stage, run, code=2)
        assert "the disk is full" in drill.said(run)
        subprocess.run(["mount", "-o", "remount,size=256m", str(run)], check=True)
        drill.ends(stage, run)
        seconds = round(time.monotonic() - started, 1)
        difference = compare(drill.base_run, local(run), stage)
        keep({"stage": stage, "fault": "full disk", "seconds": seconds, "largest difference": difference})
        assert difference <= TOLERANCE[stage]
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_the_judge_pool_grows_onto_nodes_that_join(drill: Drill, tmp_path: Path) -> None:
    """Half of autoscaling: nodes join while triage runs. A judge takes a whole node, so more judges are more nodes."""
    corpus(tmp_path / "corpus.jsonl", pairs=400)
    endpoint = FakeEndpoint()
    try:
        judge = {"actors": 1, "max_actors": 6, "num_cpus": 2, "endpoint.concurrency": 1}
        pool = [f"triage.judge.{name}={value}" for name, value in judge.items()]
        pool += ["corpus.rows_per_part=4", "triage.min_canary_pass=0"]
        environment = drill.cluster.environment | {"RAY_ADDRESS": f"127.0.0.1:{drill.cluster.gcs_port}"}
        quiet = command(tmp_path, "quiet", endpoint.url, *pool)
        subprocess.run(quiet, env=environment, check=True, timeout=300)
        endpoint.delay = 0.3
        driver = subprocess.Popen(command(tmp_path, "grown", endpoint.url, *pool), env=environment)
        wait_for(lambda: bool(list(tmp_path.glob("grown/triaged/work/judge/*.json"))), 200, "the first block")
        joined = [drill.cluster.add_node(cpus=2) for _ in range(2)]
        largest, used = 0, set()
        while driver.poll() is None:
            largest = max(largest, len(drill.cluster.processes("ray::", "JudgeActor")))
            used |= {i for i, node in enumerate(joined) if drill.cluster.processes("ray::", "JudgeActor", node=node)}
            time.sleep(0.5)
    finally:
        endpoint.close()
    for node in joined:
        drill.cluster.kill_node(node)
    assert driver.returncode == 0
    assert rows(tmp_path, "grown")[:2] == rows(tmp_path, "quiet")[:2]
    keep({"stage": "triage", "fault": "2 nodes join", "judges at most": largest, "new nodes used": len(used)})
    assert used
    assert largest > 2


def test_impact_outlives_the_nodes_that_leave(drill: Drill) -> None:
    """The other half: two nodes join before impact, work, and go one after the other while it runs."""
    run = drill.prepared("impact", "shrunk")
    joined = [drill.cluster.add_node(cpus=1) for _ in range(2)]
    driver = drill.driver("impact", run)
    drill.at_work("impact", run, driver)
    done = []
    for node in joined:
        wait_for(lambda: _works(drill, node) or driver.poll() is not None, 200, "a task on the node")  # noqa: B023
        assert driver.poll() is None, "impact was over before the node left"
        done.append(len(list(run.glob(WORK["impact"].parts))))
        drill.cluster.kill_node(node)
    assert driver.wait(timeout=300) == 0, drill.log(run).read_text()[-3000:]
    difference = compare(drill.base_run, local(run), "impact")
    keep({"stage": "impact", "fault": "2 nodes leave", "done before": done, "largest difference": difference})
    assert difference <= TOLERANCE["impact"]


def _works(drill: Drill, node: subprocess.Popen[bytes]) -> bool:
    return bool(drill.cluster.processes("ray::", WORK["impact"].process, node=node))


def test_a_damaged_part_is_named_and_made_again(drill: Drill) -> None:
    run = drill.prepared("impact", "damaged")
    part = sorted(run.glob("triaged/part-*.parquet"))[3]
    part.write_bytes(part.read_bytes()[:-30])
    drill.ends("impact", run, code=2)
    assert part.name in drill.said(run)
    assert "damaged" in drill.said(run)
    part.unlink()
    (run / "triaged" / "_DONE").unlink()
    drill.ends("triage", run)
    drill.ends("impact", run)
    assert compare(drill.base_run, local(run), "impact") <= TOLERANCE["impact"]


def test_a_second_driver_is_refused_and_the_first_goes_on(drill: Drill) -> None:
    run = drill.prepared("impact", "two-drivers")
    first = drill.driver("impact", run)
    wait_for((run / "driver.json").exists, 200, "the first driver's lock")  # it has its whole work before it
    assert drill.driver("impact", run).wait(timeout=300) == 2
    assert "is at work on this run" in drill.said(run)
    assert first.poll() is None, "the first had ended before the second was refused"
    assert first.wait(timeout=300) == 0
    # Not equal to the last bit: the gold batch is split over as many actors as the nodes hold.
    assert compare(drill.base_run, local(run), "impact") <= TOLERANCE["impact"]


@pytest.mark.parametrize(
    ("stage", "setting", "begun"),
    [
        ("triage", "triage.threshold=0.4", "decided"),
        ("impact", "impact.gold_size=13", "begun"),
        ("realign", "realign.learning_rate=1e-3", "begun"),
        ("evaluate", "evaluate.max_new_tokens=7", "begun"),
    ],
)
def test_a_changed_setting_is_refused_and_nothing_is_touched(
    drill: Drill, stage: str, setting: str, begun: str
) -> None:
    """But what it remembers of the files that it looked at."""
    own = ("config.yaml", "fingerprints.json")
    kept = [path for path in drill.base.rglob("[!.]*") if path.is_file() and path.name not in own]
    before = {path: path.stat().st_mtime_ns for path in kept}
    config = (drill.base / "config.yaml").read_text()
    drill.ends(stage, drill.base, setting, code=2)
    name, value = setting.split("=")
    assert f"{name}: {float(value):g}: this run was {begun} with" in drill.said(drill.base)
    assert changed(before) == 0
    assert (drill.base / "config.yaml").read_text() == config


def test_clocks_that_disagree_change_nothing(drill: Drill) -> None:
    """The driver that dies has a clock a day ahead, the one that goes on a clock a day behind; so have their files."""
    day = 86_400
    skew = "import time\nreal = time.time\ntime.time = lambda: real() + {}"
    run = drill.prepared("impact", "skewed")
    driver = drill.driver("impact", run, before=skew.format(day))
    drill.at_work("impact", run, driver)
    driver.kill()
    driver.wait()
    done = list(run.glob(WORK["impact"].parts))
    for path in run.rglob("*"):
        os.utime(path, (time.time() + day, time.time() + day))
    before = {path: path.stat().st_mtime_ns for path in done}
    drill.ends("impact", run, before=skew.format(-day))
    assert changed(before) == 0, "what was finished is kept, whatever its date"
    assert compare(drill.base_run, local(run), "impact") <= TOLERANCE["impact"]


def test_a_run_over_a_faulty_way_to_s3_ends_as_the_undisturbed_one(
    drill: Drill, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_credentials(monkeypatch, tmp_path / "cache")
    s3_server.make_bucket("lake")
    run = run_folder("s3://lake/runs/faulty", StorageConfig(endpoint=s3_server.endpoint, region="us-east-1"))
    share = dict.fromkeys(FAULTS, 0.01)
    with FaultyProxy(("127.0.0.1", s3_server.port), share, hang_seconds=6.0) as proxy:
        settings = {"endpoint": proxy.endpoint, "region": "us-east-1", "read_timeout_s": 5.0}
        reached = [f"storage.{name}={value}" for name, value in settings.items()]
        for stage in STAGES:
            proxy.seen.clear()
            started = time.monotonic()
            fewer = ("realign.checkpoint_steps=40", "impact.shard_rows=8")  # else requests alone take an hour
            drill.ends(stage, run.place.uri, *reached, *fewer)
            seconds = round(time.monotonic() - started, 1)
            faults = {name: number for name, number in proxy.seen.items() if name != "passed"}
            difference = compare(drill.base_run, run, stage)
            row = {"stage": stage, "fault": "S3: 5 % of requests fail", "faults": faults, "seconds": seconds}
            keep(row | {"seconds lost": round(seconds - drill.seconds[stage], 1), "largest difference": difference})
            assert faults, "the proxy did its part"
            assert difference <= TOLERANCE[stage]
