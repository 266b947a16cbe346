"""The comparison's drawings against the figures, the order of its lines, and each condition that must be held equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from trace_ray.compare import page
from trace_ray.compare.collect import collect_all, differences
from trace_ray.compare.table import comparison
from trace_ray.runs.artifacts import Run

POLICY = {"name": "p", "version": "1", "hash": "h"}


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_error_bars_end_where_the_intervals_end(make_run: Any) -> None:
    intervals = [[60.0, 92.0], [71.0, 99.0]]
    records = collect_all(
        [
            make_run(name, name, 90.0, tpa_interval={"realigned": {"all": interval}})
            for name, interval in zip("ab", intervals, strict=True)
        ]
    )
    figure: Any = Figure()
    page.draw_tpa(figure, records, narrow=True)
    assert figure.axes[0].get_xlim() == (-2, 102)
    for place, (bar, interval) in enumerate(zip(figure.axes[0].containers, intervals, strict=True)):
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 0] == pytest.approx(interval)
        assert segment[:, 1] == pytest.approx([place, place])
        assert bar.lines[0].get_xdata() == [90.0]


def test_the_bars_of_a_runs_stages_are_stacked(make_run: Any) -> None:
    first, second = collect_all([make_run(name, name, 90.0) for name in "ab"])
    second = replace(second, seconds={"triage": 5.0, "realign": 7.0, "evaluate": 1.0})  # impact was not measured
    figure: Any = Figure()
    page.draw_cost(figure, [first, second], narrow=False)
    assert figure.axes[0].get_xlim()[0] == 0
    ends = [[(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] for bars in figure.axes[0].containers]
    assert [of_first for of_first, _ in ends] == [(0, 10), (10, 30), (30, 60), (60, 100)]
    assert [of_second for _, of_second in ends] == [(0, 5), (5, 5), (5, 12), (12, 13)]


def test_all_answers_and_plain_prompts_come_first(make_run: Any) -> None:
    tpa = {"INVERT": 1.0, "RETAIN": 2.0, "aaa": 3.0, "all": 4.0, "zzz": 5.0}
    asr = {"appeal": 1.0, "fiction": 2.0, "plain": 3.0, "suffix": 4.0}
    run = make_run("a", "trace", 4.0, attacks={"asr": {"realigned": asr}})
    edit(Path((run.evaluation.place / "metrics.json").path), tpa={"base": tpa, "realigned": tpa})
    lines = comparison(collect_all([run]))
    groups = [line.name.strip() for line in lines if line.section == "TPA, %"]
    assert groups == ["base", "realigned", "INVERT", "RETAIN", "aaa", "zzz"]
    attacks = [line.name.split(":")[0] for line in lines if line.section == "ASR, %"]
    assert attacks == ["plain", "appeal", "fiction", "suffix"]


@pytest.mark.parametrize(
    ("condition", "file", "changed"),
    [
        ("policy", "triaged", {"policy": POLICY | {"name": "q"}}),
        ("policy", "triaged", {"policy": POLICY | {"version": "2"}}),
        ("policy", "triaged", {"policy": POLICY | {"hash": "other"}}),
        ("base model", "model", {"base model": "large"}),
        ("triage judge", "triaged", {"judge": "large judge"}),
        ("evaluation judge", "metrics", {"judge": "large judge"}),
        ("pairs", "triaged", {"counts": {"triaged": 901}}),
        ("label noise", "scored", {"noise": {"noise flip": 9}}),
        ("prompts", "metrics", {"n": {"all": 127}}),
        ("unclear answers under attack", "metrics", {"attacks": {"unclear_counts_as": "success"}}),
    ],
)
def test_each_condition_that_differs_is_said(make_run: Any, condition: str, file: str, changed: dict[str, Any]) -> None:
    runs: list[Run] = [make_run("a", "trace", 95.0), make_run("b", "npo", 90.0)]
    assert differences(collect_all(runs)) == []
    other = runs[1]
    places = {
        "triaged": other.triaged.place / "manifest.json",
        "scored": other.scored.place / "manifest.json",
        "model": other.model.place / "manifest.json",
        "metrics": other.evaluation.place / "metrics.json",
    }
    edit(Path(places[file].path), **changed)
    (said,) = differences(collect_all(runs))
    assert said.startswith(f"the runs differ in {condition}: ")
