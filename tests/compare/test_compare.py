"""The comparison of two runs: every figure in its place, missing ones as dashes, unlike conditions said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.compare.collect import collect_all, differences
from trace_ray.compare.page import comparison_page
from trace_ray.compare.table import comparison
from trace_ray.config import StorageConfig
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

HARNESS = {"results": {"gsm8k": {"exact_match": {"value": 0.25, "stderr": 0.031}}}, "documents": {"gsm8k": 200}}
FULL: dict[str, Any] = {
    "attacks": {
        "asr": {"base": {"plain": 1.0}, "realigned": {"plain": 2.0, "fiction": 30.0}},
        "asr_unclear_success": {"base": {"plain": 1.0}, "realigned": {"plain": 2.0, "fiction": 30.0}},
        "asr_unclear_failure": {"base": {"plain": 1.0}, "realigned": {"plain": 2.0, "fiction": 12.5}},
    },
    "drift": {"kl_to_base": 0.0123, "ppl_base": 1.5, "ppl_realigned": 1.75},
    "capability": {"base": HARNESS, "realigned": HARNESS},
}


@pytest.fixture
def runs(make_run: Any) -> list[Run]:
    return [make_run("a", "trace", 95.0, **FULL), make_run("b", "npo<b>", 60.0)]


def test_every_measure_has_its_line(runs: list[Run]) -> None:
    lines = {(line.section, line.name.strip()): line.values for line in comparison(collect_all(runs))}
    assert lines["TPA, %", "base"] == ["75.0", "75.0"]
    assert lines["TPA, %", "realigned"] == ["95.0 [90.0, 100.0]", "60.0 [55.0, 65.0]"]
    assert lines["ASR, %", "plain: base"] == ["1.0", "-"]
    assert lines["ASR, %", "fiction: realigned"] == ["30.0", "-"]
    assert lines["ASR, %", "fiction: realigned, unclear as failure / success"] == ["12.5 / 30.0", "-"]
    assert ("ASR, %", "plain: realigned, unclear as failure / success") not in lines  # none was unclear
    assert lines["drift", "KL to base, nats a token"] == ["0.0123", "-"]
    assert lines["capability", "gsm8k exact_match: realigned"] == ["0.250 ± 0.031", "-"]
    for stage, seconds in (("triage", "10"), ("impact", "20"), ("realign", "30"), ("evaluate", "40")):
        assert lines["seconds", stage] == [seconds, seconds]
    assert lines["peak memory, GiB", "realign"] == ["3.00", "3.00"]
    assert lines["tokens", "judged in triage"] == ["1,234,567", "1,234,567"]
    assert lines["tokens", "trained on"] == ["5,000", "5,000"]
    assert ("peak memory, GiB", "triage") not in lines
    assert ("ASR, %", "fiction: base") not in lines


def test_agreement_corrected_for_the_judge_stands_beside_the_raw_one_where_a_run_has_it(
    make_run: Any, runs: list[Run]
) -> None:
    shares = {"base": {"all": 10.0}, "realigned": {"all": 88.25, "INVERT": 70.0}}
    intervals = {"base": {"all": [0.0, 21.5]}, "realigned": {"all": [80.0, 95.0], "INVERT": [61.0, 79.0]}}
    corrected = make_run("c", "trace", 90.0, tpa_corrected=shares, tpa_corrected_interval=intervals)
    found = [(line.section, line.name.strip(), line.values) for line in comparison(collect_all([runs[1], corrected]))]
    told = "TPA corrected for the judge's errors, %"
    assert [(name, values) for section, name, values in found if section == told] == [
        ("base", ["-", "10.0 [0.0, 21.5]"]),
        ("realigned", ["-", "88.2 [80.0, 95.0]"]),
        ("INVERT", ["-", "70.0 [61.0, 79.0]"]),
    ]
    assert told not in {line.section for line in comparison(collect_all(runs))}
    first, second = json.loads(
        CliRunner().invoke(app, ["compare", *(r.place.path for r in (runs[1], corrected)), "--json"]).stdout
    )
    assert (first["corrected"], first["corrected_interval"]) == ({}, {})
    assert (second["corrected"], second["corrected_interval"]) == (shares, intervals)


def test_runs_under_unlike_conditions_are_told_apart(make_run: Any, runs: list[Run]) -> None:
    assert differences(collect_all(runs)) == []
    other = make_run("c", "trace", 90.0, base_model="another", judge="a model")
    said = differences(collect_all([*runs, other]))
    assert [line.split(":")[0] for line in said] == [
        "the runs differ in base model",
        "the runs differ in evaluation judge",
    ]


def test_conditions_that_change_the_figures_are_said(make_run: Any) -> None:
    plain = make_run("plain", "trace", 95.0, **FULL | {"attacks": FULL["attacks"] | {"unclear_counts_as": "success"}})
    noisy = make_run("noisy", "trace", 90.0, noise={"noise flip": 90}, judge_is_triage_judge=True)
    asked = make_run("asked", "trace", 90.0, base_model="other prompts")
    said = {line.split(":")[0] for line in differences(collect_all([plain, noisy, asked]))}
    assert said == {
        "the runs differ in base model",
        "the runs differ in label noise",
        "the runs differ in prompts",
        "the runs differ in unclear answers under attack",
        "the judge of the answers was that of triage, whose errors count as success",
    }


def test_runs_in_folders_of_one_name_have_names_and_bars_of_their_own(make_run: Any) -> None:
    records = collect_all([make_run("seed0/run", "trace", 95.0), make_run("seed1/run", "trace", 90.0)])
    assert len({record.name for record in records}) == 2
    assert all(f"seed{n}/run" in record.name for n, record in enumerate(records))
    page = comparison_page(records)
    for record in records:
        assert page.count(record.name) >= 4, "in the table, both plots and the conditions"


def test_the_page_is_self_contained_and_escapes_what_it_shows(runs: list[Run]) -> None:
    page = comparison_page(collect_all(runs))
    assert page.count("<svg") == 4  # each for desks and for phones
    assert "npo<b>" not in page
    assert "npo&lt;b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert set(re.findall(r"#[0-9a-f]{6}\b(?=[;\"' ])", page.split("</style>")[1])) <= {"#000000"}, (
        "colours follow the theme"
    )
    assert "://" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!DOCTYPE[^>]*>', "", page, flags=re.DOTALL
    )


def test_the_command_prints_the_table_and_writes_the_page(tmp_path: Path, runs: list[Run]) -> None:
    page = tmp_path / "out" / "compare.html"
    result = CliRunner().invoke(app, ["compare", *(run.place.path for run in runs), "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "95.0 [90.0, 100.0]" in result.output
    assert "<svg" in page.read_text()


def test_machines_get_the_same_figures(runs: list[Run]) -> None:
    result = CliRunner().invoke(app, ["compare", *(run.place.path for run in runs), "--json"])
    first, second = json.loads(result.stdout)
    assert (first["method"], second["method"]) == ("trace", "npo<b>")
    assert first["tpa"]["realigned"]["all"] == 95.0
    assert first["capability"]["base"]["results"]["gsm8k"]["exact_match"]["value"] == 0.25


def test_an_unfinished_run_and_a_repeated_one_are_mistakes(tmp_path: Path, runs: list[Run]) -> None:
    with pytest.raises(UserError, match="not finished"):
        collect_all([Run(locate(str(tmp_path / "none"), StorageConfig()))])
    with pytest.raises(UserError, match="once"):
        collect_all([runs[0], runs[0]])


def test_earlier_steps_stand_on_the_page(make_run: Any) -> None:
    step = {
        "run": "/first",
        "base_model": "tiny",
        "policy": {"name": "old", "version": "1"},
        "method": "trace",
        "tpa": None,
    }
    run = make_run("second", "trace", 90.0, lineage=[step])
    assert "step 1: trace from tiny under old 1 (/first)" in comparison_page(collect_all([run]))
