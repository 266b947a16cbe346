"""A run as KubeRay's operator submits it, to labelled nodes: settings from a working directory, everything else in S3.

The operator's pod asks for the job's status, submits without waiting, follows the log; then a job that FAILED is retried
on a new cluster and one that was STOPPED is complete (rayjob_controller.go, v1.7.0).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.cluster import TokenCluster
from tests.support.s3 import CREDENTIALS, S3Server, set_credentials
from trace_ray.cluster.own_job import SETTING
from trace_ray.config import StorageConfig
from trace_ray.pipeline import run_folder
from trace_ray.runs.artifacts import Run
from trace_ray.synth.demo import write_corpus

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
JUDGE, TRAINER = ({"label_selector": {"trace-ray/pool": pool}} for pool in ("judge", "trainer"))
SETTINGS = {
    "include": ["examples/demo"],
    "corpus": {"limit": 120},
    "triage": {"judge": {"backend": "rules", **JUDGE}, "min_canary_pass": 0},
    "impact": {"gold_size": 9, "shard_rows": 37, **TRAINER},
    "realign": {"num_cpus": 1, **TRAINER},
    "evaluate": {"prompts": 16, "judge": JUDGE, **JUDGE},
}


@pytest.fixture(scope="module")
def reached(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        set_credentials(patch, tmp_path_factory.mktemp("cache"))
        s3_server.make_bucket("rayjob")
        storage = StorageConfig(endpoint=s3_server.endpoint, region="us-east-1")
        corpus = write_corpus(run_folder("s3://rayjob", storage).place / "corpus")
        yield [*corpus, "triage.judge.model=''", f"storage.endpoint={s3_server.endpoint}", "storage.region=us-east-1"]


@pytest.fixture(scope="module")
def cluster(reached: list[str]) -> Iterator[TokenCluster]:
    environment = CREDENTIALS | {"TRACE_RAY_CACHE": os.environ["TRACE_RAY_CACHE"], SETTING: "stop"}
    with TokenCluster(environment) as cluster:
        cluster.add_node(2, "trace-ray/pool=judge")
        cluster.add_node(2, "trace-ray/pool=trainer")
        yield cluster


def run_at(reached: list[str], name: str) -> Run:
    endpoint = next(line.partition("=")[2] for line in reached if line.startswith("storage.endpoint"))
    return run_folder(f"s3://rayjob/runs/{name}", StorageConfig(endpoint=endpoint, region="us-east-1"))


def submitted(cluster: TokenCluster, folder: Path, run: Run, words: list[str]) -> tuple[str, str]:
    """Returns a job's log and its last status, once it is over."""
    job = run.place.name
    (folder / "my.yaml").write_text(yaml.safe_dump(SETTINGS))
    entry = ["python", str(ROOT / "jobs" / "run.py"), "-c", "my.yaml", "--run", run.place.uri, *words]
    assert cluster.ray("job", "status", job).returncode != 0
    sent = cluster.ray("job", "submit", "--submission-id", job, "--no-wait", "--working-dir", str(folder), "--", *entry)
    assert sent.returncode == 0, sent.stderr
    log = cluster.ray("job", "logs", "--follow", job, timeout=1500)
    assert log.returncode == 0, log.stderr
    return log.stdout, cluster.ray("job", "status", job).stdout


def test_training_runs_on_trainers_and_judges_on_the_others(
    cluster: TokenCluster, reached: list[str], tmp_path: Path
) -> None:
    run = run_at(reached, "placed")
    log, status = submitted(cluster, tmp_path, run, reached)
    assert "succeeded" in status, log[-3000:]
    assert run.report.exists()
    pools = {node["node_id"]: node["labels"].get("trace-ray/pool") for node in cluster.listed("nodes")}
    actors = [(actor["class_name"], pools.get(actor["node_id"])) for actor in cluster.listed("actors")]
    tasks = [(task["func_or_class_name"], pools.get(task["node_id"])) for task in cluster.listed("tasks")]
    assert {pool for name, pool in actors if name.startswith("RayTrainWorker")} == {"trainer"}
    assert {pool for name, pool in actors if "MapWorker" in name} == {"judge"}
    assert {pool for name, pool in tasks if name in ("Worker.work", "Worker.stream", "_export_task")} == {"trainer"}


def test_a_users_mistake_is_not_retried(cluster: TokenCluster, reached: list[str], tmp_path: Path) -> None:
    """In a setting, and in the corpus, which only the run finds."""
    for name, words, said in (
        ("mistaken", ["realign.zerostage=3"], "did you mean 'zero_stage'"),
        ("missing", ["corpus.paths=[s3://rayjob/nowhere/*.jsonl]"], "corpus.paths"),
    ):
        log, status = submitted(cluster, tmp_path, run_at(reached, name), [*reached, *words])
        assert said in log
        assert "was stopped" in status, status + log[-3000:]


def test_a_judge_that_hangs_ends_by_the_watchdog_and_may_be_retried(
    cluster: TokenCluster, reached: list[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        words = ["triage.judge.backend=openai", "triage.judge.model=x", "triage.audit_labels=''", "triage.min_auc=0"]
        words += [f"triage.judge.endpoint.base_url=http://127.0.0.1:{silent.getsockname()[1]}/v1"]
        words += ["triage.judge.endpoint.api_key_env=''", "triage.judge.endpoint.timeout_s=600", "ray.stall_minutes=1"]
        log, status = submitted(cluster, tmp_path, run_at(reached, "hanging"), [*reached, *words])
    assert "nothing done for 1 minutes (ray.stall_minutes)" in log, log[-3000:]
    assert "triage" in log.partition("nothing done")[0].splitlines()[-1]
    assert "failed" in status
