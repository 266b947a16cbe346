"""`ray job submit` to a real two-node cluster with token authentication; corpus, models and run folder in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import TOKEN, TokenCluster, wait_for
from tests.support.proxy import FaultyProxy
from tests.support.s3 import CREDENTIALS, S3Server, set_credentials
from trace_ray.config import StorageConfig
from trace_ray.pipeline import run_folder
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location
from trace_ray.synth.demo import write_corpus

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL = ["corpus.limit=120", "impact.gold_size=9", "impact.shard_rows=37", "evaluate.prompts=16", "realign.num_cpus=1"]


@pytest.fixture(scope="module")
def lake(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, list[str]]]:
    with pytest.MonkeyPatch.context() as patch:
        set_credentials(patch, tmp_path_factory.mktemp("cache"))
        s3_server.make_bucket("lake")
        storage = StorageConfig(endpoint=s3_server.endpoint, region="us-east-1")
        run = run_folder("s3://lake/runs/job", storage)
        place = run_folder("s3://lake", storage).place / "corpus"
        corpus = write_corpus(place)
        (place / "test.jsonl").write_text((place / "test.jsonl").read_text() + "{broken\n")
        reached = [f"storage.endpoint={s3_server.endpoint}", "storage.region=us-east-1"]
        yield run, [*corpus, *SMALL, *reached]


@pytest.fixture(scope="module")
def cluster(lake: tuple[Run, list[str]]) -> Iterator[TokenCluster]:
    import os

    environment = CREDENTIALS | {"TRACE_RAY_CACHE": os.environ["TRACE_RAY_CACHE"]}
    with TokenCluster(environment) as cluster:
        cluster.add_node(cpus=2)
        yield cluster


def submit(
    cluster: TokenCluster, job: str, run: Run, overrides: list[str], *flags: str, entry: str = "run"
) -> list[str]:
    command = ["job", "submit", "--submission-id", job, "--working-dir", str(ROOT), *flags, "--"]
    return [*command, "python", f"jobs/{entry}.py", "-c", "conf/examples/demo.yaml", "--run", run.place.uri, *overrides]


def test_who_has_no_token_or_another_is_refused(cluster: TokenCluster, lake: tuple[Run, list[str]]) -> None:
    assert cluster.get("/api/jobs/") == 401
    assert cluster.get("/api/jobs/", "wrong" * 8) == 403
    assert cluster.get("/api/jobs/", TOKEN) == 200
    told = cluster.ray(*submit(cluster, "intruder", *lake), token="wrong" * 8)
    assert told.returncode == 1
    assert "Ensure that the token" in told.stderr or "token authentication is enabled" in told.stderr
    assert TOKEN not in told.stdout + told.stderr


def test_probes_need_no_token(cluster: TokenCluster) -> None:
    assert cluster.get("/api/gcs_healthz") == 200


def test_a_killed_job_submitted_again_completes(cluster: TokenCluster, lake: tuple[Run, list[str]]) -> None:
    run, overrides = lake
    told = cluster.ray(*submit(cluster, "first", run, overrides, "--no-wait"))
    assert told.returncode == 0, told.stdout + told.stderr
    again = cluster.ray(*submit(cluster, "first", run, overrides, "--no-wait"))
    assert again.returncode == 1, "a submission id is used once"
    wait_for((run.place / "impact" / "inputs.json").exists, 1500, "impact")
    triaged = run.triaged.manifest()

    second = cluster.ray(*submit(cluster, "second", run, overrides))
    assert second.returncode == 1
    assert "is at work on this run" in second.stdout

    (driver,) = [p for p in cluster.processes("jobs/run.py", run.place.uri) if p.name().startswith("python")]
    driver.kill()
    wait_for(
        lambda: "Job 'first' failed" in cluster.ray("job", "status", "first").stdout, 600, "the end of the first job"
    )
    third = cluster.ray(*submit(cluster, "third", run, overrides), timeout=1500)
    assert third.returncode == 0, third.stdout[-3000:] + third.stderr[-3000:]
    assert run.triaged.manifest() == triaged, "a finished stage is left alone"
    counts = triaged["counts"]
    assert counts["rows_in"] == 120 + 128 + 1 == counts["triaged"] + counts["rejects"]
    assert json.loads((run.evaluation.place / "metrics.json").read_text())["n"]["all"] == 16
    assert run.report.exists()
    assert not (run.place / "driver.json").exists()


def test_a_mistake_in_the_configuration_fails_the_job(cluster: TokenCluster, lake: tuple[Run, list[str]]) -> None:
    run, overrides = lake
    told = cluster.ray(*submit(cluster, "typo", run, [*overrides, "realign.zerostage=3"], entry="realign"))
    assert told.returncode == 1
    assert "did you mean 'zero_stage'" in told.stdout


def test_what_is_done_again_is_counted_too(
    cluster: TokenCluster, lake: tuple[Run, list[str]], s3_server: S3Server
) -> None:
    """Over a way to S3 that cuts answers short; rules judge, so that it takes seconds."""
    run, overrides = lake
    with FaultyProxy(("127.0.0.1", s3_server.port), {"cut": 0.1}) as proxy:
        faulty = [f"storage.endpoint={proxy.endpoint}", "triage.judge.backend=rules", "triage.judge.model=''"]
        other = Run(Location(run.place.fs, "lake/runs/faulty"))
        told = cluster.ray(*submit(cluster, "faulty", other, [*overrides, *faulty], entry="triage"), timeout=1500)
        assert told.returncode == 0, told.stdout[-3000:]
        assert proxy.seen["cut"] > 0
    wait_for(lambda: sample(cluster, "retries_total", kind="s3") > 0, 300, "a retry in the metrics")


def test_the_projects_metrics_were_in_rays_endpoint(cluster: TokenCluster) -> None:
    """Every figure that a run of these jobs moves, read as Prometheus reads it."""
    for category in ("INVERT", "PUNISH", "RETAIN"):
        assert sample(cluster, "pairs_judged_total", category=category) > 0
        assert sample(cluster, "pairs_scored_total", category=category) > 0
    assert sample(cluster, "rejects_total", stage="triage", reason="broken_json") >= 1
    assert sample(cluster, "judge_tokens_total") > 0
    assert 0 < sample(cluster, "judge_prefix_hits_total") <= sample(cluster, "judge_prefix_queries_total")
    assert sample(cluster, "training_tokens_total") > 0
    assert sample(cluster, "training_tokens_per_second") > 0
    assert sample(cluster, "training_step") > 0
    for model in ("base", "realigned"):
        assert sample(cluster, "answers_total", model=model) > 0


def sample(cluster: TokenCluster, name: str, **tags: str) -> float:
    """Returns the largest value that one process' series of ours with these tags had; 0 where there was none."""
    found = [line for line in sorted(cluster.scraped) if line.startswith(f"ray_trace_ray_{name}{{")]
    mine = [line for line in found if all(f'{tag}="{value}"' in line for tag, value in tags.items())]
    return max((float(line.rsplit("}", 1)[1].split()[0]) for line in mine), default=0.0)


def test_no_credential_is_in_the_run_or_in_rays_logs(cluster: TokenCluster, lake: tuple[Run, list[str]]) -> None:
    planted = [TOKEN.encode(), CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()]
    raw = lake[0].place.fs.handler.fs
    texts = {path: raw.cat_file(path) for path in raw.find("lake/runs")}
    logs = [path for path in cluster.folder.rglob("logs/**/*") if path.is_file() and not path.is_symlink()]
    texts |= {str(path): path.read_bytes() for path in logs}
    assert len(texts) > 30
    assert [path for path, data in texts.items() if any(secret in data for secret in planted)] == []
