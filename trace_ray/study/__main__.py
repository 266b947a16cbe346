"""``python -m trace_ray.study --out DIR [--plan full|reduced]``: the paper's comparison on the synthetic world.

Each finished cell is one JSON file: run it again and only the missing ones are computed. The corpora are judged by the tiny
vLLM judge first, once each; training and answers run in this process' workers without Ray, with the stages' own code.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from trace_ray import environment
from trace_ray.config import StorageConfig
from trace_ray.storage import Location, locate
from trace_ray.study.cells import PLANS, SEEDS, SIZES, Cell
from trace_ray.study.results import Result, markdown_table, plot_ablation, plot_noise, plot_scale
from trace_ray.study.run import result_file, run_study


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
