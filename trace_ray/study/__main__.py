"""``python -m trace_ray.study --out DIR [--plan full|reduced]``: the paper's comparison on the synthetic world.

Each finished cell is one JSON file: run it again and only the missing ones are computed. The corpora are judged by the tiny
vLLM judge first, once each; training and answers run in this process' workers without Ray, with the stages' own code.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trace_ray import environment
from trace_ray.config import StorageConfig
from trace_ray.storage import Location, locate
from trace_ray.study.cells import PLANS, SEEDS, SIZES, Cell
from trace_ray.study.results import Result, markdown_table, plot_ablation, plot_noise, plot_scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trace_ray.study", description="The paper's comparison, small.")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="results (default: %(default)s)")
    parser.add_argument("--plan", choices=sorted(PLANS), default="full", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: the cores)")
    arguments = parser.parse_args()
    environment.prepare()
    folder = locate(str(arguments.out), StorageConfig())
    cells = list(PLANS[arguments.plan]())
    started = time.monotonic()
    run_study(folder, cells, arguments.workers)
    print(f"{len(cells)} cells, {time.monotonic() - started:.0f} s in this session")  # noqa: T201
    report(folder, cells)


def run_study(folder: Location, cells: Sequence[Cell], workers: int) -> None:
    """Judges the corpora and runs the cells that have no result yet."""
    todo = [cell for cell in cells if not result_file(folder, cell).exists()]
    wanted = sorted({(cell.pairs, cell.seed) for cell in cells})
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # vLLM in a process of its own: its memory goes with it
        pool.apply(_judge, (folder, wanted, todo[0] if todo else cells[0]))
    with context.Pool(workers, initializer=_one_thread) as pool:
        for done, name in enumerate(pool.imap_unordered(_run_cell, [(folder, cell) for cell in todo]), 1):
            print(f"{done}/{len(todo)} {name}", flush=True)  # noqa: T201


def result_file(folder: Location, cell: Cell) -> Location:
    """Returns where a cell's result is kept."""
    return folder / "cells" / f"{cell.name}.json"


def _one_thread() -> None:
    import torch

    environment.prepare()
    torch.set_num_threads(1)


def _judge(folder: Location, wanted: list[tuple[int, int]], cell: Cell) -> None:
    from trace_ray.study.corpora import category_counts, corpus_file, judge_corpora, judge_errors

    used = judge_corpora(folder / "corpora", wanted, cell.config())
    if used:
        (folder / "judge.json").write_text(json.dumps(used))
    errors = {}
    for pairs, seed in wanted:
        rows = corpus_file(folder / "corpora", pairs, seed).read_parquet().to_pylist()
        errors[f"{pairs} pairs, seed {seed}"] = {**judge_errors(rows), **category_counts(rows)}
    (folder / "judge_errors.json").write_text(json.dumps(errors, indent=1))


def _run_cell(job: tuple[Location, Cell]) -> str:
    from trace_ray.memory import PeakMemory
    from trace_ray.study.corpora import corpus_file
    from trace_ray.study.measure import measure, measure_base
    from trace_ray.study.train import realign_cell

    folder, cell = job
    config = cell.config()
    triaged = corpus_file(folder / "corpora", cell.pairs, cell.seed).read_parquet()
    rows = triaged.to_pylist()
    with PeakMemory() as memory:
        trained = realign_cell(triaged, config)
    result: dict[str, Any] = {
        "cell": asdict(cell),
        "label": cell.label,
        **measure(trained.model, rows, config),
        "tpa_base": measure_base(rows, config),
        "seconds": {name: round(value, 2) for name, value in trained.seconds.items()},
        "peak_bytes": memory.peak_bytes,
        **trained.facts,
    }
    result_file(folder, cell).write_text(json.dumps(result, indent=1))
    return cell.name


def report(folder: Location, cells: Sequence[Cell]) -> None:
    """Prints and writes the table and the plots, and the judge's error rates."""
    results: list[Result] = [json.loads(result_file(folder, cell).read_text()) for cell in cells]
    judged = json.loads((folder / "judge_errors.json").read_text())
    worst = max(entry["response_error"] for entry in judged.values())
    text = markdown_table(results)
    text += f"\n\nTPA of the base: {results[0]['tpa_base']:.1f} %. "
    text += f"The triage judge was wrong on at most {worst:.2%} of a corpus' responses."
    (folder / "table.md").write_text(text + "\n")
    out = Path(folder.path)
    plot_scale(results, out / "scale.svg")
    plot_noise(results, out / "noise.svg")
    plot_ablation(results, SIZES[1], out / "ablation.svg")
    print(f"\n{text}\n")  # noqa: T201
    print(json.dumps({"cells": len(results), "seeds": len(SEEDS), "table": str(out / "table.md")}))  # noqa: T201


if __name__ == "__main__":
    main()
