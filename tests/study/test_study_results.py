"""The study's plan and arithmetic."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import StorageConfig
from trace_ray.storage.location import locate
from trace_ray.study.__main__ import report
from trace_ray.study.cells import (
    ABLATIONS,
    METHODS,
    RATES,
    SEEDS,
    TUNING_SEEDS,
    VARIANTS,
    Cell,
    full_plan,
    hold_plan,
    of_methods,
    reduced_plan,
    tuning_plan,
)
from trace_ray.study.results import (
    estimate,
    markdown_table,
    noise_table,
    plot_ablation,
    plot_noise,
    plot_scale,
    scale_table,
)
from trace_ray.study.run import result_file, results_folder
from trace_ray.study.tuning import at_rates, chosen_rates, tuning_table


def result(method: str, tpa: float, seed: int = 0, pairs: int = 900, noise: float = 0.0) -> dict[str, Any]:
    return {
        "cell": {"method": method, "pairs": pairs, "seed": seed, "noise": noise, "variant": ""},
        "label": method,
        "code": "0.1.0+abc",
        "steps": 60,
        "tpa": tpa,
        "tpa_base": 75.0,
        "tpa_by_source": {"sensitive_educational": 100.0, "benign": 80.0, "zero_tolerance": 60.0},
        "kl_to_base": 0.01,
        "seconds": {"scoring": 1.0, "direction": 0.5, "training": 2.0, "kl": 0.25},
        "peak_bytes": 2**29,
        "peak_bytes_by_phase": {"direction": 2**27, "scoring": 2**28, "training": 2**29},
    }


def test_an_interval_by_hand() -> None:
    # Mean 90, standard deviation 10, t(0.975, 2) = 4.3027: half-width 24.84.
    found = estimate([80.0, 90.0, 100.0])
    assert found.mean == 90
    assert found.half == pytest.approx(24.84, abs=0.01)
    assert estimate([5.0]).text() == "5.0"
    assert found.text() == "90.0 ± 24.8"


def test_the_table_has_one_row_a_group_over_its_seeds() -> None:
    results = [result("trace", tpa, seed) for seed, tpa in enumerate((80.0, 90.0, 100.0))] + [
        result("npo", 1, noise=0.1)
    ]
    lines = markdown_table(results).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| trace | 900 | 0% | 3 | 60 | 90.0 ± 24.8 | 100.0 ± 0.0 | 70.0 ± 0.0 |")
    assert "| npo | 900 | 10% | 1 | 60 | 1.0 |" in lines[3]
    assert lines[3].endswith("| 1.5 | 2.0 | 0.2 | 256 | 512 |")  # s of scoring, training, KL; MiB of scoring, in all
    del results[0]["peak_bytes_by_phase"], results[0]["seconds"]["kl"]
    assert markdown_table(results).splitlines()[2].endswith("| 1.5 ± 0.0 | 2.0 ± 0.0 | - | - | 512 ± 0 |")


def test_plots_are_drawn_where_there_is_something_to_compare(tmp_path: Path) -> None:
    results = [result("trace", 90, pairs=n) for n in (300, 900)] + [result("trace", 80, noise=0.1)]
    plot_scale(results, tmp_path / "scale.svg")
    plot_noise(results, tmp_path / "noise.svg")
    plot_ablation(results, 900, tmp_path / "ablation.svg")
    plot_scale(results[:1], tmp_path / "lone.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ablation.svg", "noise.svg", "scale.svg"]


def test_a_cell_is_named_by_all_that_its_result_depends_on() -> None:
    grid = product((3, 9), (0, 1), (0.0, 0.1), ("", *VARIANTS))
    cells = [Cell(method="trace", pairs=n, seed=s, noise=r, variant=v) for n, s, r, v in grid]
    cells.append(Cell(method="trace", pairs=3, seed=0, overrides=("realign.epochs=2",)))
    assert len({cell.name for cell in cells}) == len(cells)


def test_results_of_another_code_are_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = locate(str(tmp_path), StorageConfig())
    mine = results_folder(out)
    assert results_folder(out) == mine
    monkeypatch.setattr("trace_ray.study.run.code_version", lambda: "0.1.0+other")
    assert results_folder(out) != mine
    monkeypatch.undo()
    (tmp_path / "demo.yaml").write_text("realign: {}")
    monkeypatch.setattr("trace_ray.study.run.conf_folder", lambda: tmp_path)
    assert results_folder(out) != mine


def test_the_seed_reaches_corpus_noise_adapter_and_order() -> None:
    config = Cell(method="trace", pairs=9, seed=5, noise=0.2).config()
    assert (config.impact.seed, config.realign.seed, config.corpus.noise.seed) == (5, 5, 5)
    assert (config.corpus.noise.flip, config.corpus.noise.swap) == (0.1, 0.1)
    assert {cell.seed for cell in reduced_plan()} == set(SEEDS)


@pytest.mark.slow
def test_the_full_plan_holds_the_papers_comparison() -> None:
    cells = list(full_plan())
    assert len({cell.name for cell in cells}) == len(cells)
    plain = {(c.method, c.pairs, c.seed) for c in cells if not c.noise and not c.variant}
    sizes, seeds = {c.pairs for c in cells}, {c.seed for c in cells}
    assert (len(sizes), len(seeds)) == (3, 5)
    methods = ("trace", "naive_oracle_dpo", "dpo_gold", "rdpo", "npo", "u2a", "no_triage", "no_retain", "no_impact")
    assert plain >= set(product(methods, sizes, seeds))
    noisy = {(c.method, c.noise, c.seed) for c in cells if c.noise}
    assert noisy >= set(product(("trace", "no_impact", "dpo_gold", "u2a"), (0.1, 0.2), seeds))
    varied = {c.variant: c.config() for c in cells if c.method == "trace" and c.variant}
    assert varied["weight_norm sum"].impact.weight_norm == "sum"
    assert varied["ipo_sum"].objective.INVERT.loss == "ipo_sum"
    assert varied["gauss_newton"].impact.curvature == "gauss_newton"
    trace = Cell(method="trace", pairs=9, seed=0).config()
    assert (trace.impact.weight_norm, trace.objective.INVERT.loss, trace.impact.curvature) == (
        "mean",
        "dpo",
        "identity",
    )


def tuned(method: str, rate: float, tpa: float, kl: float = 0.01) -> dict[str, Any]:
    found = result(method, tpa)
    return found | {"kl_to_base": kl, "cell": found["cell"] | {"rate": rate}}


def test_each_method_gets_the_rate_of_highest_agreement_and_of_equals_the_one_that_drifts_least() -> None:
    low, high = RATES[0], RATES[-1]
    tuning = [tuned("trace", low, 90, 0.2), tuned("trace", low, 100, 0.2), tuned("trace", high, 95, 0.1)]
    tuning += [tuned("npo", low, 75), tuned("npo", high, 60), tuned("no_retain", low, 75), tuned("no_retain", high, 99)]
    rates = chosen_rates(tuning)
    assert rates["npo"] == low
    assert rates["trace"] == high  # 95 either way: the second number decides
    assert {rates[name] for name in ABLATIONS} == {high}, "an ablation keeps trace's rate, whatever its own best"
    cells = [Cell(method=name, pairs=9, seed=0) for name in ("npo", "no_retain")]
    cells.append(Cell(method="naive_oracle_dpo", variant="balanced, 180 steps", pairs=9, seed=0))
    cells = at_rates(cells, rates | {"naive_oracle_dpo": low, "naive_oracle_dpo balanced": high})
    assert [cell.rate for cell in cells] == [low, high, high]
    assert [cell.config().realign.learning_rate for cell in cells] == [low, high, high]


def test_some_methods_of_a_plan_are_tuned_and_run_alone() -> None:
    every, (tuning, cells) = list(hold_plan()), of_methods("hold", ["npo", "trace_hold"])
    assert cells == [cell for cell in every if cell.method in ("npo", "trace_hold")]
    assert {cell.method for cell in tuning} == {"npo", "trace_hold"}
    assert of_methods("hold", []) == (list(tuning_plan("hold")), every)
    tuning, cells = of_methods("full", ["no_impact"])
    assert ({cell.method for cell in tuning}, {cell.method for cell in cells}) == (
        {"trace", "no_impact"},
        {"no_impact"},
    )
    with pytest.raises(ValueError, match="nope: not in this plan, which has trace_hold, "):
        of_methods("hold", ["npo", "nope"])
    assert chosen_rates([tuned("npo", RATES[0], 75)]) == {"npo": RATES[0]}


def test_the_tuning_shows_every_method_at_every_rate_on_worlds_of_its_own() -> None:
    cells = list(tuning_plan("full"))
    recipes = (*METHODS, *ABLATIONS, "naive_oracle_dpo balanced")
    assert {(c.recipe, c.rate, c.seed) for c in cells} == set(product(recipes, RATES, TUNING_SEEDS))
    assert {c.recipe for c in full_plan()} == set(recipes), "every cell's recipe has a rate"
    assert not {c.seed for c in cells} & {c.seed for c in (*full_plan(), *reduced_plan())}
    tuning = [tuned("trace", rate, 70 + i) for i, rate in enumerate(RATES)]
    assert tuning_table(tuning, {"trace": RATES[1]}).splitlines()[2] == (
        "| trace | 70.0 | **71.0** | 72.0 | 73.0 | 74.0 | 75.0 | 76.0 |"
    )


def test_the_tables_of_sizes_and_of_noise() -> None:
    results = [result("trace", tpa, seed) for seed, tpa in enumerate((80.0, 90.0, 100.0))]
    results += [result("npo", 50, pairs=300), result("trace", 60, noise=0.2), result("trace", 70, noise=0.1)]
    assert scale_table(results).splitlines() == [
        "| TPA, % | 300 pairs | 900 pairs |",
        "|---|---|---|",
        "| trace |  | 90.0 ± 24.8 |",
        "| npo | 50.0 |  |",
    ]
    assert noise_table(results).splitlines()[::2] == [
        "| TPA, % | 0% damaged | 10% damaged | 20% damaged |",
        "| trace | 90.0 ± 24.8 | 70.0 | 60.0 |",
    ]


def test_a_report_is_made_of_stored_cells_and_says_how_often_the_judge_was_wrong(tmp_path: Path) -> None:
    folder = locate(str(tmp_path), StorageConfig())
    cells = [Cell(method="trace", pairs=900, seed=seed) for seed in SEEDS[:3]]
    for cell, tpa in zip(cells, (80.0, 90.0, 100.0), strict=True):
        result_file(folder, cell).write_text(json.dumps(result("trace", tpa, cell.seed)))
    errors = {"a": {"response_error": 0.001, "pair_error": 0.02}, "b": {"response_error": 0.0123, "pair_error": 0.01}}
    (folder / "judge_errors.json").write_text(json.dumps(errors))
    report(folder, cells)
    assert "| trace | 900 | 0% | 3 | 60 | 90.0 ± 24.8 |" in (folder / "table.md").read_text()
    text = (folder / "judge.md").read_text()
    assert "TPA of the base: 75.0 %" in text
    assert "wrong on at most 1.23% of a corpus' responses and 2.00% of its pairs" in text
    assert text.endswith("Computed by code 0.1.0+abc.\n")
    assert (folder / "ablation.svg").exists()
