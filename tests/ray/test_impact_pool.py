"""The impact stage on a real local Ray: actors, their loads, a lost worker."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.impact import tiny
from tests.impact.stage_runs import PAIRS, config, impacts, triaged_run
from tests.realign import handmade
from tests.support.in_process import impact_in_process
from trace_ray.cluster.connection import ensure_ray
from trace_ray.impact import stage
from trace_ray.impact.stage import run_impact
from trace_ray.impact.tasks import score_rows
from trace_ray.realign.reference import STORED, reference_place
from trace_ray.realign.stage import _store_reference
from trace_ray.runs.artifacts import SCORES


def test_actors_load_the_model_once_whatever_the_shards_and_score_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gold shards, curvature products and more than 40 shards of pairs on two actors, one of which is killed once.

    One process does the same in shards of 17. A model is loaded by the two, by an actor that waited and takes the dead
    one's place, and by the dead one started again for the call that it owes.
    """
    solve = {"curvature": "gauss_newton", "curvature_pairs": 5, "gamma": 0.01, "cg_tolerance": 1e-2}
    alone = triaged_run(tmp_path / "alone")
    with pytest.MonkeyPatch.context() as here:
        impact_in_process(here)
        run_impact(alone, config(**solve))
    run, marker = triaged_run(tmp_path / "run"), tmp_path / "killed"

    def dying(*arguments: Any) -> Any:
        with suppress(FileExistsError), marker.open("x"):
            os.kill(os.getpid(), signal.SIGKILL)
        return score_rows(*arguments)

    monkeypatch.setattr(stage, "score_rows", dying)
    ensure_ray(config().ray)
    run_impact(run, config(shard_rows=2, num_cpus=ray.cluster_resources()["CPU"] / 2, **solve))
    assert marker.exists()
    manifest = run.impact.manifest()
    assert 1 <= manifest["model_loads"] <= 4
    assert manifest["run_as"] == {"packing": "rows", "kernels": "none", "batch_tokens": 1024}
    assert len((run.impact.place / SCORES).files(".json")) == -(-PAIRS // 2)
    assert tiny.relative_error(impacts(run), impacts(alone)) <= 1e-4


def test_the_reference_is_loaded_once_an_actor_whatever_the_parts(tmp_path: Path) -> None:
    settings = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    settings = replace(settings, realign=replace(settings.realign, kl_reference="top_k", top_k=3, num_cpus=1))
    run = handmade.make_run(tmp_path / "run", settings, count=24)
    part = (run.scored.place / "part-0.parquet").read_parquet()
    for number in range(12):
        (run.scored.place / f"part-1{number:02d}.parquet").write_parquet(part.slice(number, 1))
    run.scored.publish(counts={"rows": 48}, seconds=0.0)
    ensure_ray(settings.ray)
    _store_reference(run, settings)
    stored = {place.name for place in reference_place(run).files(".parquet")}
    assert stored == set(run.scored.manifest()["parts"])
    facts = json.loads((run.realign.place / STORED).read_text())
    assert facts["parts"] == 14
    assert 1 <= facts["model_loads"] <= ray.cluster_resources()["CPU"]
    assert facts["run_as"] == {"packing": "rows", "kernels": "none", "batch_tokens": 4096}
    _store_reference(run, settings)  # nothing is left to do
    assert json.loads((run.realign.place / STORED).read_text()) == facts
