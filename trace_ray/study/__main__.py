"""``python -m trace_ray.study --out DIR [--plan full|reduced|hold] [--methods A,B]``: the paper's comparison, and what holds.

First every method is given the learning rate that suits it, on worlds that the comparison does not use. Each finished cell
is one JSON file: run it again and only the missing ones are computed; changed code begins anew. The corpora are judged by
the tiny vLLM judge first, once each; training and answers run in this process' workers without Ray, with the stages' own
code.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from trace_ray.config import StorageConfig
from trace_ray.runtime import environment
from trace_ray.storage.location import Location, locate
from trace_ray.study.cells import PLANS, SEEDS, SIZES, Cell, of_methods
from trace_ray.study.hold import hold_figures, hold_table, kept_table, plot_paths, selected_table
from trace_ray.study.results import (
    Result,
    markdown_table,
    noise_table,
    plot_ablation,
    plot_noise,
    plot_scale,
    scale_table,
)
from trace_ray.study.run import result_file, results_folder, run_study
from trace_ray.study.tuning import at_rates, chosen_rates, tuning_table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trace_ray.study", description="The paper's comparison, small.")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="results (default: %(default)s)")
    parser.add_argument("--plan", choices=sorted(PLANS), default="full", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: the cores)")
    parser.add_argument("--methods", default="", help="of the plan's methods these alone, with commas")
    arguments = parser.parse_args()
    environment.prepare()
    folder = results_folder(locate(str(arguments.out), StorageConfig()))
    started = time.monotonic()
    try:
        tuning, plan = of_methods(arguments.plan, arguments.methods.split(",") if arguments.methods else [])
    except ValueError as error:
        parser.error(f"--methods {error}")
    cells = at_rates(plan, tune(folder, tuning, arguments.workers))
    run_study(folder, cells, arguments.workers)
    print(f"{len(cells)} cells, {time.monotonic() - started:.0f} s in this session, tuning included")  # noqa: T201
    (report_hold if arguments.plan == "hold" else report)(folder, cells)


def tune(folder: Location, cells: Sequence[Cell], workers: int) -> dict[str, float]:
    """Runs the tuning's cells, prints and writes their table; returns the learning rate of each method."""
    run_study(folder, cells, workers)
    results = _stored(folder, cells)
    rates = chosen_rates(results)
    _tell(folder, "tuning.md", tuning_table(results, rates))
    return rates


def report(folder: Location, cells: Sequence[Cell]) -> None:
    """Prints and writes the tables and the plots, and the judge's error rates."""
    results = _stored(folder, cells)
    judged = json.loads((folder / "judge_errors.json").read_text())
    worst = {kind: max(entry[kind] for entry in judged.values()) for kind in ("response_error", "pair_error")}
    for name, table in (("scale.md", scale_table), ("noise.md", noise_table), ("table.md", markdown_table)):
        _tell(folder, name, table(results))
    said = f"TPA of the base: {results[0]['tpa_base']:.1f} %. The triage judge was wrong on at most "
    said += f"{worst['response_error']:.2%} of a corpus' responses and {worst['pair_error']:.2%} of its pairs."
    said += f" Computed by code {', '.join(sorted({r['code'] for r in results}))}."
    _tell(folder, "judge.md", said)
    out = Path(folder.path)
    plot_scale(results, out / "scale.svg")
    plot_noise(results, out / "noise.svg")
    plot_ablation(results, SIZES[1], out / "ablation.svg")
    print(json.dumps({"cells": len(results), "seeds": len(SEEDS), "table": str(out / "table.md")}))  # noqa: T201


def report_hold(folder: Location, cells: Sequence[Cell]) -> None:
    """Prints and writes the tables of what holds, and the plot along the steps."""
    results = _stored(folder, cells)
    tables = {"hold.md": hold_table, "hold_kept.md": kept_table, "hold_selected.md": selected_table}
    for name, table in tables.items():
        _tell(folder, name, table(results))
    plot_paths(results, Path(folder.path) / "hold.svg")
    print(json.dumps({"cells": len(results), "seeds": len(SEEDS), "methods": hold_figures(results)}))  # noqa: T201


def _stored(folder: Location, cells: Sequence[Cell]) -> list[Result]:
    return [json.loads(result_file(folder, cell).read_text()) for cell in cells]


def _tell(folder: Location, name: str, text: str) -> None:
    (folder / name).write_text(text + "\n")
    print(f"\n{text}\n")  # noqa: T201


if __name__ == "__main__":
    main()
