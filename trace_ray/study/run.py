"""Runs the cells of a plan that have no result yet, in worker processes without Ray."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trace_ray.config.sources import conf_folder
from trace_ray.runs.code_version import code_version
from trace_ray.runtime import environment
from trace_ray.storage.location import Location
from trace_ray.study.cells import Cell
from trace_ray.synth.demo import MODELS


def results_folder(out: Location) -> Location:
    """Returns the folder below ``out`` of this code's results: cells of another code, method or model are not theirs."""
    digest = hashlib.sha256(code_version().encode())
    for root in (conf_folder(), MODELS):
        for file in sorted(file for file in root.rglob("*") if file.is_file()):
            digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return out / f"code-{digest.hexdigest()[:8]}"


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
    from trace_ray.study.corpora import corpus_file
    from trace_ray.study.measure import measure, measure_base
    from trace_ray.study.realign import realign_cell
    from trace_ray.study.watch import Watch

    folder, cell = job
    config = cell.config()
    triaged = corpus_file(folder / "corpora", cell.pairs, cell.seed).read_parquet()
    rows = triaged.to_pylist()
    watch = Watch(rows, config, cell.looks) if cell.looks else None
    trained = realign_cell(triaged, config, *((watch.after_step, watch.start) if watch else ()))
    result: dict[str, Any] = {
        "cell": asdict(cell),
        "code": code_version(),
        "label": cell.label,
        **measure(trained.model, rows, config),
        "tpa_base": measure_base(rows, config),
        "seconds": {name: round(value, 2) for name, value in trained.seconds.items()},
        "peak_bytes": max(trained.peak_bytes.values()),
        "peak_bytes_by_phase": trained.peak_bytes,
        **trained.facts,
        **(watch.figures() if watch else {}),
    }
    result_file(folder, cell).write_text(json.dumps(result, indent=1))
    return cell.name
