"""Runs the probes, one process after another, and collects their rates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from trace_ray.config import Config
from trace_ray.config.load import dump_config
from trace_ray.errors import UserError
from trace_ray.plan.judges import reading_judges
from trace_ray.plan.preflight import OF_THE_MODEL
from trace_ray.plan.rates import NO_ENGINE, NO_SCORING, NO_TRAINING, EngineRates, Rates, ScoringRates, TrainRates
from trace_ray.plan.sample import Sample

PROBE_ROWS = 48
MODEL_PIECES = ("train", "scoring", "policy")
"""Measured of the policy model; every judge that reads here is a further piece."""


def measure(
    sample: Sample, config: Config, stages: Sequence[str], note: Callable[[str], None]
) -> tuple[Rates | None, list[UserError]]:
    """Returns the measured rates, and what kept a piece from being measured: a model that does not load.

    Args:
        stages: what none of them runs is not measured, and its rates are 0.
        note: told the name of each piece before it is measured.
    """
    problems: list[UserError] = []
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config_file, sample_file = Path(folder) / "config.yaml", Path(folder) / "sample.parquet"
        config_file.write_text(dump_config(config), encoding="utf-8")
        rows = sample.table.num_rows
        taken = sample.table.take(sorted({i * rows // PROBE_ROWS for i in range(PROBE_ROWS)}))
        pq.write_table(taken.select(["prompt", "chosen", "rejected"]), sample_file)
        for piece in _pieces(config, stages):
            note(piece)
            try:
                found[piece] = _probe(piece, config_file, sample_file)
            except UserError as error:
                problems.append(error)
    if problems:
        return None, problems
    return Rates(
        judges={name: EngineRates(**found[name]) for name in found if name not in MODEL_PIECES},
        policy=EngineRates(**found["policy"]) if "policy" in found else NO_ENGINE,
        train=TrainRates(**found["train"]) if "train" in found else NO_TRAINING,
        scoring=ScoringRates(**found["scoring"]) if "scoring" in found else NO_SCORING,
    ), []


def _pieces(config: Config, stages: Sequence[str]) -> list[str]:
    judges = [name for name, judge in reading_judges(config).items() if judge.backend == "vllm"]
    used = MODEL_PIECES if set(OF_THE_MODEL) & set(stages) else ()
    return [*used, *(name for name in judges if name.partition(".")[0] in stages)]


def _probe(piece: str, config_file: Path, sample_file: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "trace_ray.plan.probe", piece, str(config_file), str(sample_file)]
    finished = subprocess.run([*command, str(time.time())], capture_output=True, text=True, check=False)
    if finished.returncode:
        last = next((line for line in reversed(finished.stderr.splitlines()) if line.strip()), "no message")
        remedy = "it could not be loaded and run here: see the message, or give plan.measure=false with rates"
        raise UserError(f"plan: {piece}", last.strip()[:300], remedy)
    return dict(json.loads(finished.stdout.splitlines()[-1]))
