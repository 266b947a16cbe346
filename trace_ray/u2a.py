"""U2A (arXiv 2504.06659) as a short loop over the stages that exist: train, rescore at the trained adapter, reweigh.

Each round is a run of its own below RUN/realign/rounds/NUMBER. Its gain is the impact of the same loss on the same
direction, at the adapter the round before ended with: gain = < grad J, grad l > (U2A, its selection).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import Config, ObjectiveConfig
from trace_ray.impact.stage import run_impact
from trace_ray.objective.slopes import pair_slopes
from trace_ray.pairs import SCORED_SCHEMA, TRIAGED_SCHEMA, fitted
from trace_ray.realign.export_stage import publish_model, publish_training
from trace_ray.realign.stage import realign_inputs, train
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import ADAPTER_INIT, TRAINING_METRICS, Run, inputs_hash
from trace_ray.runs.figures import training_figures
from trace_ray.runs.nested import NestedRun
from trace_ray.storage.location import Location, copy_files

ROUNDS, CHOSEN, TRAINED_ADAPTER = "rounds", "chosen", "trained"
Floats = npt.NDArray[np.float64]


def round_at(place: Location, run: Run) -> Run:
    """Returns a round's run; its pairs are those that were chosen before the first, in a folder that all rounds share."""
    return NestedRun(place, "triaged", run.realign.place / ROUNDS / CHOSEN)


def run_rounds(run: Run, config: Config) -> None:
    """Writes realign/ (rounds, metrics) and model/, as stage 3 does for methods of one round."""
    inputs, started = realign_inputs(run, config), time.monotonic()
    if not begin(run, "realign", inputs):
        return
    if not run.realign.done():
        trained = _train_rounds(run, config, inputs)
        publish_training(run, config, trained, time.monotonic() - started, rounds=config.objective.u2a_rounds)
    publish_model(run, config, started)


def _train_rounds(run: Run, config: Config, inputs: dict[str, Any]) -> str:
    """Trains round after round and writes the metrics of all; returns the last adapter's folder, below realign/."""
    objective = config.objective
    chosen = choose(run, objective.u2a_pairs)
    write_chosen(run, chosen)
    weight = np.ones(chosen.num_rows)
    metrics: list[dict[str, Any]] = []
    current = round_at(run.realign.place / ROUNDS / "0", run)
    for number in range(objective.u2a_rounds):
        before, current = current, round_at(run.realign.place / ROUNDS / str(number), run)
        adapter = before.place / TRAINED_ADAPTER / "adapter" if number else run.impact.place / ADAPTER_INIT
        copy_files(adapter, current.impact.place / ADAPTER_INIT)
        if number:
            for file in run.impact.place.files(".parquet"):  # the gold batch, and the curvature's sample
                (current.impact.place / file.name).write_bytes(file.read_bytes())
            run_impact(current, rescoring(config))
            gain = gains(chosen, current.scored.read(), objective)
            weight = reweighed(weight, gain, objective.u2a_eta)
        training = round_at(current.place / "training", run)
        _write_scored(training, chosen, weight, inputs | {"round": number})
        copy_files(adapter, training.impact.place / ADAPTER_INIT)
        _train_round(training, config, current.place / TRAINED_ADAPTER, number)
        metrics += [row | {"step": row["step"] + len(metrics)} for row in training_figures(training)]
    lines = [json.dumps(row | {"steps": len(metrics)}) + "\n" for row in metrics]
    (run.realign.place / TRAINING_METRICS).write_text("".join(lines))
    return f"{ROUNDS}/{objective.u2a_rounds - 1}/{TRAINED_ADAPTER}"


def choose(run: Run, limit: int) -> pa.Table:
    """Returns the ``limit`` scored conflicts of largest gain, in their order. The gain of a first round is their impact."""
    kept = largest(np.concatenate([table["impact"].to_numpy() for table in run.scored.tables(["impact"])]), limit)
    tables, start = [], 0
    for table in run.scored.tables():
        mine = kept[(kept >= start) & (kept < start + table.num_rows)] - start
        tables.append(table.take(pa.array(mine)))
        start += table.num_rows
    return pa.concat_tables(tables, promote_options="default")


def largest(gain: Floats, limit: int) -> npt.NDArray[np.int64]:
    """Returns the places of the ``limit`` largest gains, in order; never that of a pair without one (NaN)."""
    known = np.nan_to_num(gain, nan=-np.inf)
    return np.sort(np.argsort(-known, kind="stable")[: min(limit, int(np.isfinite(known).sum()))])


def write_chosen(run: Run, chosen: pa.Table) -> None:
    """Writes the triaged rows of the chosen pairs: what a round scores anew, and not the whole corpus."""
    artifact = round_at(run.place, run).triaged
    rows = chosen["row"].to_pylist()
    if not artifact.begin({"triaged": run.triaged.manifest()["inputs_hash"], "rows": inputs_hash({"rows": rows})}):
        return
    counts: Counter[str] = Counter(triaged=len(rows))
    for name in run.triaged.manifest()["parts"]:
        part = (run.triaged.place / name).read_parquet()
        kept = part.filter(pc.is_in(part["row"], chosen["row"].combine_chunks()))
        if kept.num_rows:
            (artifact.place / name).write_parquet(kept)
        counts.update(
            f"{split} {category}"
            for split, category in zip(*(kept[c].to_pylist() for c in ("split", "category")), strict=True)
        )
    artifact.publish(counts=counts, seconds=0.0, schema=TRIAGED_SCHEMA)


def gains(chosen: pa.Table, rescored: pa.Table, objective: ObjectiveConfig) -> Floats:
    """Returns < v, grad l > of each chosen pair at the adapter that ``rescored`` was made with.

    There the pair's log-ratios are no longer 0: its slopes are taken at them.

    Args:
        chosen: with the first reference's log-probs; rescored: with s(y) and log-probs at the current adapter.
    """
    now: Mapping[int, dict[str, Any]] = {row["row"]: row for row in rescored.to_pylist()}
    pairs = [(row, now[row["row"]]) for row in chosen.to_pylist()]
    names = [objective.responses(row["category"]) for row, _ in pairs]
    moved = [
        {name: then[f"{name}_ref_logp"] - row[f"{name}_ref_logp"] for name in some}
        for (row, then), some in zip(pairs, names, strict=True)
    ]
    logp = [{name: then[f"{name}_ref_logp"] for name in some} for (_, then), some in zip(pairs, names, strict=True)]
    slopes = pair_slopes([row for row, _ in pairs], objective, moved, logp)
    return np.array(
        [
            sum(c * then[f"{name}_s"] for name, c in slope.items())
            for (_, then), slope in zip(pairs, slopes, strict=True)
        ]
    )


def reweighed(weight: Floats, gain: Floats, eta: float) -> Floats:
    """Returns w exp(eta gain), averaging 1 as w does. Source: U2A, eq. of its weight update, sign as its selection's."""
    raised: Floats = weight * np.exp(eta * gain)
    averaged: Floats = raised * (len(raised) / raised.sum())
    return averaged


def rescoring(config: Config) -> Config:
    """Only each response's s(y) is read: uniform weights need no pair of positive gain, and cosine knows no s(y)."""
    objective, impact = config.objective, config.impact
    return replace(config, objective=replace(objective, weights="uniform"), impact=replace(impact, score_norm="none"))


def _write_scored(training: Run, chosen: pa.Table, weight: Floats, inputs: dict[str, Any]) -> None:
    if not training.scored.begin(inputs):
        return
    at = chosen.column_names.index("weight")
    table = chosen.set_column(at, "weight", pa.array(weight))
    (training.scored.place / "part-0.parquet").write_parquet(fitted(table, SCORED_SCHEMA))
    training.scored.publish(counts={"chosen": chosen.num_rows}, seconds=0.0)


def _train_round(training: Run, config: Config, trained: Location, number: int) -> None:
    if not training.realign.begin(realign_inputs(training, config)):
        return
    config = replace(config, realign=replace(config.realign, seed=config.realign.seed + number))
    with train(training, config).as_directory() as folder:
        for file in (Path(folder) / "adapter").iterdir():
            (trained / "adapter" / file.name).write_bytes(file.read_bytes())
    training.realign.publish(counts={"steps": len(training_figures(training))}, seconds=0.0)
