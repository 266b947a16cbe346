"""What makes two runs' figures mean less than they seem to: told by name, with both values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from trace_ray.cli.app import app
from trace_ray.compare.collect import collect_all, differences
from trace_ray.compare.page import comparison_page
from trace_ray.compare.table import comparison

ALIKE = {
    "corpus file 1: pairs.jsonl (train)": "0123",
    "corpus.holdout": 0.1,
    "corpus.rows_per_part": 9,
    "evaluate.max_new_tokens": 64,
    "model.max_length": 128,
    "model files": "abcd",
    "realign.learning_rate": 1e-4,
    "objective.beta": 0.3,
    "triaged": "a hash of all before",
}


def two(make_run: Any, methods: tuple[str, str] = ("trace", "trace"), **changed: Any) -> list[Any]:
    first = make_run("one", methods[0], 90.0, inputs=ALIKE)
    return collect_all([first, make_run("two", methods[1], 80.0, inputs=ALIKE | changed)])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"evaluate.max_new_tokens": 16}, "evaluate.max_new_tokens: 16; 64"),
        ({"model.max_length": 64}, "model.max_length: 128; 64"),
        ({"model files": "ef01"}, "model files: abcd; ef01"),
        ({"realign.learning_rate": 1e-3}, "realign.learning_rate: 0.0001; 0.001"),
        ({"objective.beta": 0.1}, "objective.beta: 0.1; 0.3"),
        ({"lora.r": 8}, "lora.r: 8; not set"),
        ({"corpus file 1: pairs.jsonl (train)": "4567"}, "corpus: "),
        ({"corpus file 2: more.jsonl (train)": "0123"}, "corpus: "),
        ({"corpus.holdout": 0.2}, "corpus: "),
    ],
)
def test_a_condition_that_differs_is_said(make_run: Any, changed: dict[str, Any], said: str) -> None:
    (warning,) = differences(two(make_run, **changed))
    assert warning.startswith(f"the runs differ in {said}")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"corpus.rows_per_part": 99},
        {"triaged": "another hash"},
        {"corpus.noise.flip": 0.1},  # told as label noise
    ],
)
def test_what_changes_no_figure_is_not_said(make_run: Any, changed: dict[str, Any]) -> None:
    assert differences(two(make_run, **changed)) == []


def test_the_same_corpus_under_another_name_is_the_same(make_run: Any) -> None:
    renamed = {name: value for name, value in ALIKE.items() if not name.startswith("corpus file")}
    runs = [
        make_run("one", "trace", 90.0, inputs=ALIKE),
        make_run("two", "trace", 80.0, inputs=renamed | {"corpus file 1: moved.jsonl (train)": "0123"}),
    ]
    assert differences(collect_all(runs)) == []


def test_of_two_methods_the_objective_is_what_is_compared(make_run: Any) -> None:
    changed = {"objective.beta": 0.1, "triage.correct": True, "realign.epochs": 3}
    (warning,) = differences(two(make_run, ("trace", "npo"), **changed))
    assert warning == "the runs differ in realign.epochs: 3; not set"


def test_one_base_that_shows_two_figures_is_said(make_run: Any) -> None:
    runs = [make_run("one", "trace", 90.0), make_run("two", "npo", 90.0)]
    place = runs[1].evaluation.place / "metrics.json"
    shown = {"base": {"all": 58.3}, "realigned": {"all": 90.0}}
    place.write_text(json.dumps(json.loads(place.read_text()) | {"tpa": shown}))
    (warning,) = differences(collect_all(runs))
    assert warning == "the same base model, tiny, shows another TPA in each: trace (one) 75.0; npo (two) 58.3"


def test_settings_that_differ_stand_in_table_and_page(make_run: Any) -> None:
    changed: dict[str, Any] = {"realign.learning_rate": 1e-3, "triage.judge.engine": "x" * 500}
    records = two(make_run, **changed)
    lines = {line.name: line.values for line in comparison(records) if line.section == "settings that differ"}
    assert lines["realign.learning_rate"] == ["0.0001", "0.001"]
    assert max(map(len, lines["triage.judge.engine"])) < 80
    assert "realign.learning_rate" in comparison_page(records)


def test_figures_that_are_no_number_are_null_for_machines(make_run: Any) -> None:
    run = make_run(
        "one", "trace", 90.0, drift={"kl_to_base": float("nan"), "ppl_base": float("inf"), "ppl_realigned": 2.0}
    )
    said = CliRunner().invoke(app, ["compare", run.place.uri, "--json"])

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    (record,) = json.loads(said.stdout, parse_constant=refuse)
    assert record["drift"] == {"kl_to_base": None, "ppl_base": None, "ppl_realigned": 2.0}
