"""The drift on a real local Ray: one actor whatever the pieces, its loads counted, its death made good."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.realign import handmade
from tests.support.drifted import drifted_run, retained
from trace_ray.cluster.connection import ensure_ray
from trace_ray.evaluate import models_stage
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.evaluate.models import measure_drift
from trace_ray.evaluate.models_stage import model_metrics
from trace_ray.storage.traffic import Traffic

COUNT = 9


def test_an_actor_keeps_its_model_and_the_one_that_takes_a_dead_one_s_place_loads_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pieces; the actor is killed at the second, after it has told of its load at the first."""
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    run, calls = drifted_run(tmp_path / "run", config, "adapter", COUNT), tmp_path / "calls"
    expected = measure_drift(run, config, retained(COUNT)).figures()
    calls.mkdir()

    def dying(*arguments: Any) -> DriftSum:
        number = len(list(calls.iterdir()))
        (calls / str(number)).touch()
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure_drift(*arguments)

    monkeypatch.setattr(models_stage, "measure_drift", dying)
    monkeypatch.setattr(models_stage, "_CALL_PAIRS", 3)
    ensure_ray(config.ray)
    metrics, told = model_metrics(run, config, Traffic())
    assert len(list(calls.iterdir())) == 4
    assert told == {"drift": {"model_loads": 2, "run_as": {"packing": "rows", "kernels": "none", "batch_tokens": 4096}}}
    drift = metrics["drift"]
    assert (drift["pairs"], drift["held_out_pairs"]) == (COUNT, COUNT // 2)
    assert {name: drift[name] for name in expected} == pytest.approx(expected, rel=1e-5)
