"""`import trace_ray` stays light, and who may import whom holds: the design's arrows, read from the source.

`python -m tests.house` prints what is held here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trace_ray
from tests.house import arrows, at_root, circle, floors, imported, long_files, long_functions, modules, wing, wings

PACKAGE = Path(trace_ray.__file__).parent
MEET_ON_DISK = {"triage", "impact", "realign", "evaluate", "report", "compare"}
"""Areas that read one another's artefacts, never one another's code."""

FLOORS = (
    {"errors", "pairs"},
    {"runtime", "look"},
    {"storage", "objective.losses"},
    {"config"},
    {"chat", "runs", "cluster"},
    {"corpus", "model"},
    {"objective", "judges"},
    {"synth", *MEET_ON_DISK},
    {"rounds", "u2a", "plan", "selection"},
    {"pipeline", "study"},
    {"cli"},
)
"""From the ground up: each imports lower floors alone."""

WINGS = set().union(*FLOORS)
NAME = re.compile(r"`([\w./]+)`")

EDGES = {
    "ray": {
        "cluster/actor_pool.py",
        "cluster/connection.py",
        "cluster/data_pool.py",
        "cluster/nodes.py",
        "cluster/own_job.py",
        "cluster/shared_paths.py",
        "cluster/tasks.py",
        "realign/loop.py",
        "realign/ray_train.py",
        "realign/worker.py",
        "runtime/metrics.py",
        "triage/running.py",
    },
    "vllm": {"model/engine.py"},
    "deepspeed": {"realign/setup.py", "realign/weights.py", "model/head.py"},
}
"""Heavy libraries and the only files that import them; Ray also in each area's stage files."""

CPU_SECONDS = 0.2
"""Of `import trace_ray`: sixty times what it takes, so the bound holds on a slow machine too."""


def test_import_is_quick_and_free_of_heavy_libraries() -> None:
    code = (
        "import sys, time; t = time.process_time(); import trace_ray; seconds = time.process_time() - t;"
        "heavy = {'ray', 'torch', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules);"
        f"assert not heavy, heavy; assert seconds < {CPU_SECONDS}, seconds"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_few_modules_stand_outside_the_wings() -> None:
    assert {"errors", "pairs", "pipeline"} <= set(at_root(PACKAGE))
    assert len(at_root(PACKAGE)) <= 8


def test_no_module_imports_itself_through_others() -> None:
    assert circle(arrows(PACKAGE)) == []


def test_each_wing_imports_lower_floors_alone() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert floor.keys() == {wing(name) for name in modules(PACKAGE)}
    up = {
        (name, other)
        for name, others in arrows(PACKAGE).items()
        for other in others
        if wing(name) != wing(other) and floor[wing(name)] <= floor[wing(other)]
    }
    assert up == set(), "a room that lower floors read counts as a wing of its own: APART in tests/house.py"


def test_contributing_shows_each_wing_on_its_floor() -> None:
    lines = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    rows = [found.groups() for line in lines if (found := re.match(r"\| (\d+) \| (.*) \|$", line))]
    named = {
        int(floor): {name.removesuffix(".py").replace("/", ".") for name in NAME.findall(text)} for floor, text in rows
    }
    assert {floor: names & WINGS for floor, names in named.items()} == dict(enumerate(FLOORS))


def test_areas_meet_on_disk_alone() -> None:
    between = wings(arrows(PACKAGE))
    assert "runs" in between["report"]  # what is looked for would be found
    assert {area: between[area] & MEET_ON_DISK for area in MEET_ON_DISK} == {area: set() for area in MEET_ON_DISK}


def test_heavy_libraries_are_imported_at_the_edge_alone() -> None:
    for library, allowed in EDGES.items():
        found = {
            file.relative_to(PACKAGE).as_posix()
            for file in PACKAGE.rglob("*.py")
            if library in {name.split(".")[0] for name in imported(file)}
        }
        stages = {name for name in found if library == "ray" and name.endswith("stage.py")}
        assert found - stages == allowed, library


def test_what_is_large_is_listed_with_its_reason() -> None:
    """Each has its name in CONTRIBUTING's paragraph on it."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = text[text.index("more than 250:") : text.index("Words, each for one thing")]
    large = {*long_files(PACKAGE), *(name.partition(":")[2] for name in long_functions(PACKAGE))}
    assert large == set(re.findall(r"`([^`]+)`", listed))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package of three modules whose arrows are known."""
    package = tmp_path / "small"
    (package / "high").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "low.py").write_text("")
    (package / "high" / "__init__.py").write_text("from small.high.room import x\n")
    (package / "high" / "room.py").write_text("def f():\n    from small import low\n    import small.low\n")
    return package


def test_arrows_are_read_from_every_form_of_import(house: Path) -> None:
    assert arrows(house) == {"high": {"high.room"}, "high.room": {"low"}, "low": set()}
    assert wings(arrows(house)) == {"high": {"low"}, "low": set()}
    assert floors(wings(arrows(house))) == [["low"], ["high"]]
    assert at_root(house) == ["low"]


def test_a_circle_is_found(house: Path) -> None:
    assert circle(arrows(house)) == []
    (house / "low.py").write_text("from small.high import room\n")
    assert circle(arrows(house)) in (["low", "high.room", "low"], ["high.room", "low", "high.room"])


def test_no_two_test_files_have_one_name() -> None:
    """Pytest would collect one of them only, and say so as an error in whichever comes second."""
    names = [file.name for file in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))
