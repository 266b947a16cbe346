"""A wrecked model is no success: drift, perplexity and diversity beyond their limits colour page, table and last line."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.cli.tables import closing_line, summary_tables
from trace_ray.config import ReportConfig
from trace_ray.report.page import render, report_sections
from trace_ray.runs.damage import damages
from trace_ray.runs.summary import run_summary

SOUND: dict[str, Any] = {
    "drift": {"kl_to_base": 0.4, "ppl_base": 3.0, "ppl_realigned": 5.9, "drift_tokens": 10.0},
    "diversity": {"base": 0.96, "realigned": 0.5},
}
WRECKS: dict[str, dict[str, Any]] = {
    "drift": {"drift": SOUND["drift"] | {"kl_to_base": 6.5}},
    "perplexity": {"drift": SOUND["drift"] | {"ppl_realigned": 808.0}},
    "diversity": {"diversity": {"base": 0.96, "realigned": 0.1}},
    "no number": {"drift": SOUND["drift"] | {"kl_to_base": float("nan")}},
}


def evaluated(folder: Path, metrics: Mapping[str, Any]) -> MadeRun:
    made = MadeRun(folder)
    made.everything(AUDIT)
    place = made.run.evaluation.place / "metrics.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | metrics))
    return made


@pytest.mark.parametrize("name", WRECKS)
def test_a_wrecked_model_is_told_wherever_its_figures_are(name: str, tmp_path: Path) -> None:
    made = evaluated(tmp_path, SOUND | WRECKS[name])
    sections = report_sections(made.run, config_of())
    card = next(card for card in sections["cards"] if card.anchor == "change")
    assert card.tone == "bad"
    assert card.answer.startswith("Damaged")
    kept = next(card for card in sections["cards"] if card.question == "Was anything lost?")
    assert (kept.tone, sections["decision"].word) == ("bad", "stop")
    (caution,) = [warning for warning in sections["warnings"] if "damaged, whatever it complies with" in warning.text]
    assert caution.level == "bad"
    rows = [row for lines in sections["change"].other.values() for row in lines]
    assert [row.tone for row in rows].count("bad") == 1
    assert "beyond its limit" in render(made.run, config_of())
    summary = run_summary(made.run)
    line = closing_line(summary, "REPORT")
    assert line.plain.startswith("the realigned model is damaged: ")
    assert line.plain.endswith("report: REPORT")
    assert "red" in str(line.style)
    out = io.StringIO()
    for table in summary_tables(summary):
        Console(file=out, width=200).print(table)
    assert "of a damaged model" in " ".join(out.getvalue().split())


def test_a_sound_model_is_not(tmp_path: Path) -> None:
    made = evaluated(tmp_path, SOUND)
    page = render(made.run, config_of())
    assert "damaged" not in page
    assert "word pairs that an answer does not repeat" in page
    summary = run_summary(made.run)
    assert summary["damage"] == []
    assert closing_line(summary, "REPORT").plain == "report: REPORT"


def test_limits_are_settings_and_0_is_none() -> None:
    wreck = {"drift": {"kl_to_base": 6.5, "ppl_base": 1.0, "ppl_realigned": 9.0}, **WRECKS["diversity"]}
    assert {harm.measure for harm in damages(wreck, ReportConfig())} == {"drift", "perplexity", "diversity"}
    assert not damages(wreck, ReportConfig(max_drift=0, max_perplexity=0, min_diversity=0))
    assert not damages(wreck, ReportConfig(max_drift=7, max_perplexity=9, min_diversity=0.1))
    assert not damages({"tpa": {}}, ReportConfig())
    assert not damages({"drift": {}, "diversity": {"base": 0.0, "realigned": 0.0}}, ReportConfig())


def test_the_page_judges_by_the_configured_limits(tmp_path: Path) -> None:
    made = evaluated(tmp_path, SOUND)
    strict = replace(config_of(), report=replace(config_of().report, max_drift=0.1))
    assert "report.max_drift 0.1" in render(made.run, strict)
    assert run_summary(made.run, strict.report)["damage"]
