"""`make bench`: what is out of bounds is told, a page says how it was measured, and the programs know their options."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from tests.bench.floors import FLOORS, page, shortfalls, written_pairs
from trace_ray.config import CorpusConfig
from trace_ray.corpus.rows import parse_row
from trace_ray.storage.jsonl import strict_json

ROOT = Path(__file__).parents[1]
BENCHES = yaml.safe_load(FLOORS.read_text())


def test_what_is_out_of_bounds_is_told() -> None:
    bounds = {"least": {"speed": 2.0}, "most": {"error": 0.1}}
    assert shortfalls({"speed": 2.0, "error": 0.1}, bounds) == []
    assert shortfalls({"speed": 1.9, "error": 0.2}, bounds) == ["speed: 1.9, at least 2", "error: 0.2, at most 0.1"]
    assert shortfalls({"speed": math.nan}, bounds) == ["speed: nan, at least 2", "error: not measured"]


def test_a_page_says_on_what_with_what_and_when() -> None:
    command, figures = ["tests/bench/triage.py", "--pairs", "64"], {"speed": 5.061, "note": "x"}
    text = page("triage", command, figures, {"least": {"speed": 3}}, 61)
    for said in ("# Benchmark: triage", "- hardware: ", "torch ", "`python tests/bench/triage.py --pairs 64`", "61 s"):
        assert said in text
    assert "| speed | 5.061 | at least 3 |" in text


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench["name"])
def test_every_program_has_the_options_and_figures_that_are_asked_of_it(bench: dict[str, object]) -> None:
    words = [str(word) for word in bench["command"]]  # type: ignore[attr-defined]
    script = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
    source = (ROOT / script).read_text()
    options = [word for word in words if word.startswith("--")] + ([str(bench["pairs"])] if "pairs" in bench else [])
    figures = [name for word in ("least", "most") for name in bench.get(word, {})]  # type: ignore[attr-defined]
    assert [name for name in [*options, *figures] if f'"{name}"' not in source] == []


def test_pairs_of_random_words_are_pairs(tmp_path: Path) -> None:
    import json

    rows = [json.loads(line) for line in written_pairs(tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 400
    assert all(len(parse_row(row, CorpusConfig())) == 1 for row in rows)
    assert strict_json(rows[0])
