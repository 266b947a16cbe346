"""Run folders as the stages leave them, small and by hand: what compare and lineage read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pytest

from trace_ray.config import StorageConfig
from trace_ray.pairs import MODELS, RESPONSE_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.runs.memory import record_peak
from trace_ray.storage.location import locate


class MakeRun(Protocol):
    """Writes a finished run with a TPA of 75 before and ``tpa`` after."""

    def __call__(self, name: str, method: str, tpa: float, base_model: str = "tiny", **metrics: Any) -> Run: ...


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str, method: str, tpa: float, base_model: str = "tiny", **metrics: Any) -> Run:
        return finished_run(tmp_path / name, method, tpa, base_model, **metrics)

    return make


def finished_run(
    folder: Path,
    method: str,
    tpa: float,
    base_model: str,
    *,
    noise: dict[str, int] | None = None,
    inputs: dict[str, Any] | None = None,
    **metrics: Any,
) -> Run:
    run = Run(locate(str(folder), StorageConfig()))
    for artifact in (run.triaged, run.scored, run.realign, run.model, run.evaluation):
        artifact.begin({"folder": str(folder), **(inputs or {})})
    policy = {"name": "p", "version": "1", "hash": "h"}
    used = {"judged_tokens": 1234000, "first_judged_tokens": 500, "second_endpoint_tokens": 67, "requests": 9}
    run.triaged.publish(counts={"triaged": 900}, seconds=10, policy=policy, judge="tiny judge", used=used)
    run.scored.publish(counts={}, seconds=20, weight_norm="mean", noise=noise or {})
    run.realign.publish(counts={}, seconds=29, tokens=5000, method=method)
    run.model.publish(counts={}, seconds=30, method=method, **{"base model": base_model})
    figures = {
        "tpa": {"base": {"all": 75.0, "INVERT": 0.0}, "realigned": {"all": tpa, "INVERT": 100.0}},
        "tpa_interval": {"realigned": {"all": [tpa - 5, min(100, tpa + 5)]}},
        "n": {"all": 128},
        "judge": "rules",
        **metrics,
    }
    (run.evaluation.place / "metrics.json").write_text(json.dumps(figures))
    ids = ["1", "2"] if base_model != "other prompts" else ["1", "3"]
    rows = [{"pair_id": pair_id, "model": model, "compliant": True} for pair_id in ids for model in MODELS]
    answered = pa.Table.from_pylist(rows, schema=RESPONSE_SCHEMA)
    (run.evaluation.place / "responses" / "part-0.parquet").write_parquet(answered)
    run.evaluation.publish(counts={}, seconds=40)
    record_peak(run.model.place, 3 * 2**30)
    return run
