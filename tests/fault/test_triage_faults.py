"""Triage on a real local Ray against an endpoint on loopback that kills, lags and is asked no question twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import wait_for
from tests.support.fake_endpoint import FakeEndpoint
from trace_ray.config import StorageConfig
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

pytestmark = pytest.mark.slow

PAIRS = 96
BLOCKS = 8


def corpus(path: Path, pairs: int = PAIRS) -> Path:
    """A third INVERT, a third PUNISH, a third RETAIN, an unreadable one now and then."""
    kinds = (("BAD", "good"), ("BAD", "BAD"), ("good", "BAD"))
    rows = [
        {"prompt": f"question {i}", "chosen": f"{kinds[i % 3][0]} c{i}", "rejected": f"{kinds[i % 3][1]} r{i}"}
        for i in range(pairs)
    ]
    rows[10]["chosen"] = "MUMBLE"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]) + "{broken\n")
    return path


def settings(tmp: Path, url: str, *more: str) -> list[str]:
    policy = tmp / "policy.yaml"
    policy.write_text("policy: {name: p, text: Nothing BAD.}\n")
    judge = "triage.judge."
    return [
        "-c",
        str(policy),
        f"corpus.paths=[{tmp / 'corpus.jsonl'}]",
        f"corpus.rows_per_part={PAIRS // BLOCKS + 2}",
        f"{judge}backend=openai",
        f"{judge}model=m",
        f"{judge}endpoint.base_url={url}",
        f"{judge}endpoint.backoff_s=0.05",
        f"{judge}batch_rows=4",
        f"{judge}actors=2",
        f"{judge}max_actors=2",
        f"{judge}num_cpus=0.5",
        "ray.local_cpus=2",
        *more,
    ]


def command(tmp: Path, run: str, url: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "trace_ray.cli", "triage", "--run", str(tmp / run), *settings(tmp, url, *more)]


def triage(tmp: Path, run: str, url: str, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(tmp, run, url, *more), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def rows(tmp: Path, run: str) -> tuple[dict[int, dict[str, Any]], dict[int, str], dict[str, Any]]:
    opened = Run(locate(str(tmp / run), StorageConfig()))
    triaged = {row["row"]: row for row in opened.triaged.read().to_pylist()}
    rejects = {row["row"]: row["reason"] for row in opened.rejects.read().to_pylist()}
    return triaged, rejects, opened.triaged.manifest()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEndpoint]:
    server = FakeEndpoint()
    yield server
    server.close()


@pytest.fixture(scope="module")
def quiet(fake: FakeEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, in ``run``; its verdicts are in ``store``."""
    tmp = tmp_path_factory.mktemp("triage")
    corpus(tmp / "corpus.jsonl")
    triage(tmp, "run", fake.url, f"triage.verdict_store={tmp / 'store'}")
    return tmp


def reset(fake: FakeEndpoint, **behaviour: Any) -> None:
    fake.asked.clear()
    fake.times.clear()
    fake.deadly, fake.kill_after, fake.delay = "", 0, 0.0
    fake.killed.clear()
    for name, value in behaviour.items():
        setattr(fake, name, value)


def test_the_undisturbed_run_accounts_for_every_row(quiet: Path) -> None:
    triaged, rejects, manifest = rows(quiet, "run")
    assert len(triaged) == PAIRS
    assert rejects == {PAIRS: "duplicate_pair", PAIRS + 1: "broken_json"}
    assert manifest["counts"]["rows_in"] == PAIRS + 2
    assert {row["category"] for row in triaged.values()} == {"INVERT", "PUNISH", "RETAIN", "ABSTAIN"}
    assert triaged[10]["category"] == "ABSTAIN"
    assert triaged[0]["category"] == "INVERT"
    assert manifest["canaries"]["pass_rate"] == 1.0
    parts = sorted((quiet / "run" / "review").iterdir())
    review = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    assert [row["pair_id"] for row in review] == [triaged[10]["pair_id"]]
    assert not (quiet / "run" / "triaged" / "work").exists()


def test_a_second_run_judges_only_what_is_new(fake: FakeEndpoint, quiet: Path) -> None:
    store = f"triage.verdict_store={quiet / 'store'}"
    no_canaries = "triage.min_canary_pass=0"
    reset(fake)
    triage(quiet, "again", fake.url, store, no_canaries)
    canaries = rows(quiet, "again")[2]["canaries"]
    asked_by_canaries = canaries["tried"] + canaries["candidates"]
    assert sum(fake.asked.values()) in (asked_by_canaries, 2 * asked_by_canaries)  # two actors may begin at once
    assert rows(quiet, "again")[2]["used"]["responses_judged"] == 0
    assert rows(quiet, "again")[0] == rows(quiet, "run")[0]

    label = {"pair_id": rows(quiet, "run")[0][10]["pair_id"], "violates_chosen": True, "violates_rejected": False}
    (quiet / "labels.jsonl").write_text(json.dumps(label) + "\n")
    lines = (quiet / "corpus.jsonl").read_text().splitlines()
    grown = {"prompt": "a new question", "chosen": "BAD new", "rejected": "good new"}
    (quiet / "corpus.jsonl").write_text("\n".join([*lines[:-1], json.dumps(grown), json.dumps(grown)]) + "\n")
    triage(quiet, "grown", fake.url, store, no_canaries, f"triage.review_labels={quiet / 'labels.jsonl'}")
    triaged, _, manifest = rows(quiet, "grown")
    assert manifest["used"]["responses_judged"] == 2
    assert triaged[10]["category"] == "INVERT"  # was ABSTAIN; now as reviewed

    (quiet / "other.yaml").write_text("policy: {name: p, text: Nothing BAD at all.}\n")
    triage(quiet, "changed", fake.url, store, no_canaries, "-c", str(quiet / "other.yaml"))
    assert rows(quiet, "changed")[2]["used"]["responses_judged"] == 2 * (PAIRS + 1)
    (quiet / "corpus.jsonl").write_text("\n".join(lines) + "\n")


def test_killed_and_slow_actors_change_nothing(fake: FakeEndpoint, quiet: Path) -> None:
    reset(fake, kill_after=120, delay=0.02)
    triage(quiet, "killed", fake.url)
    assert len(fake.killed) == 1
    assert rows(quiet, "killed")[:2] == rows(quiet, "run")[:2]


def test_a_poison_row_ends_in_the_rejects(fake: FakeEndpoint, quiet: Path) -> None:
    reset(fake, deadly="c33")
    triage(quiet, "poison", fake.url)
    triaged, rejects, manifest = rows(quiet, "poison")
    undisturbed, refused, _ = rows(quiet, "run")
    assert rejects == refused | {33: "kills_judge"}
    assert triaged == {row: value for row, value in undisturbed.items() if row != 33}
    assert len(fake.killed) <= 12
    assert manifest["counts"]["rejects"] == 3


def test_restarts_are_bounded(fake: FakeEndpoint, quiet: Path) -> None:
    reset(fake, deadly="c")
    done = triage(quiet, "hopeless", fake.url, "triage.max_judge_deaths=3", "triage.min_canary_pass=0", code=2)
    assert "triage.max_judge_deaths" in done.stderr
    assert len(fake.killed) < 12


def test_a_killed_driver_resumes_to_the_same_rows(fake: FakeEndpoint, quiet: Path) -> None:
    reset(fake, delay=0.05)
    driver = subprocess.Popen(
        command(quiet, "resumed", fake.url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    judged = quiet / "resumed" / "triaged" / "work" / "judge"
    deadline = time.monotonic() + 120
    while len(list(judged.glob("*.json"))) < 2:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    begun = len(list(judged.glob("*.json")))
    assert begun < BLOCKS
    before = sum(fake.asked.values())
    reset(fake)
    triage(quiet, "resumed", fake.url)
    assert rows(quiet, "resumed")[:2] == rows(quiet, "run")[:2]
    canaries = rows(quiet, "run")[2]["canaries"]
    assert before <= 2 * (2 * PAIRS + canaries["tried"] + canaries["candidates"])  # two actors may look first at once
    assert sum(fake.asked.values()) <= 2 * 4  # in flight: a span of four an actor


def test_the_budget_stops_a_run_that_can_go_on(fake: FakeEndpoint, quiet: Path) -> None:
    reset(fake)
    limit = "triage.judge.endpoint.max_requests="
    done = triage(quiet, "poor", fake.url, f"{limit}150", "triage.min_canary_pass=0", code=2)
    assert "max_requests" in done.stderr
    triage(quiet, "poor", fake.url, f"{limit}2000", "triage.min_canary_pass=0")
    assert rows(quiet, "poor")[0] == rows(quiet, "run")[0]


def test_a_driver_that_is_terminated_says_so_and_the_same_command_goes_on(fake: FakeEndpoint, tmp_path: Path) -> None:
    """As a pod that is evicted, or a Ray job that is stopped."""
    corpus(tmp_path / "corpus.jsonl")
    reset(fake, delay=0.2)
    driver = subprocess.Popen(command(tmp_path, "run", fake.url), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: bool(list(tmp_path.glob("run/triaged/work/judge/*.json"))), 240, "the first block")
    driver.terminate()
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 143
    assert "trace-ray: terminated: what is finished is kept, and the same command goes on\n" in said
    assert "SIGTERM received" not in said
    reset(fake)
    triage(tmp_path, "run", fake.url)
    triaged, rejects, _ = rows(tmp_path, "run")
    assert (len(triaged), len(rejects)) == (PAIRS, 2)
