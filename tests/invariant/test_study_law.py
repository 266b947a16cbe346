"""The study's law: a cell, computed in one process, is the run that the stages make of the same corpus on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.invariant.laws import assert_same
from trace_ray.config import JudgeConfig, StorageConfig
from trace_ray.impact.stage import run_impact
from trace_ray.judges.backends import make_judge
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.pipeline import stage_runner
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures
from trace_ray.storage.location import locate
from trace_ray.study.cells import Cell
from trace_ray.study.corpora import category_counts, judged_corpus
from trace_ray.study.realign import realign_cell

PAIRS = 60


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trace", "u2a"])
class TestStudyCellIsTheStage:
    """Study cell = impact and realign on Ray: same pairs, weights, losses and gradients at every step."""

    def test_every_step(self, method: str, tmp_path: Path) -> None:
        # Of one epoch a stage ends after 4 steps, where a cell goes on to T_max.
        steps = ("realign.max_steps=6", "realign.epochs=9")
        config = Cell(method=method, pairs=PAIRS, seed=0, rate=4e-4, overrides=steps).config()
        triaged = judged_corpus(PAIRS, 0, make_judge(config.policy, JudgeConfig(backend="rules")), config.triage)
        run = Run(locate(str(tmp_path / "run"), StorageConfig()))
        run.triaged.begin({"pairs": PAIRS})
        (run.triaged.place / "part-0.parquet").write_parquet(triaged)
        trained = {f"train {name}": count for name, count in category_counts(triaged.to_pylist()).items()}
        about = {"name": config.policy.name, "version": config.policy.version, "hash": "0" * 16}
        counts = {"triaged": triaged.num_rows, **trained}
        run.triaged.publish(counts=counts, seconds=0.0, schema=TRIAGED_SCHEMA, policy=about)
        run_impact(run, config)
        stage_runner("realign")(run, config)
        seen: list[dict[str, Any]] = []
        realign_cell(triaged, config, lambda _, training: seen.append(training.metrics[-1]))
        numbered = [row | {"step": number} for number, row in enumerate(seen, 1)]
        assert_same(numbered, training_figures(run))
        assert len(seen) == 6 * (3 if method == "u2a" else 1)
