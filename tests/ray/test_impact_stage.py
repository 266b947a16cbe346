"""The impact stage on a real local Ray: full and LoRA, curvature, resumption, a lost worker."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tests.impact import tiny, world
from tests.realign import handmade
from trace_ray.chat.text import TokenizedPair
from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config, CorpusConfig, ImpactConfig, LoraSettings, StorageConfig
from trace_ray.errors import UserError
from trace_ray.impact import stage
from trace_ray.impact.stage import run_impact
from trace_ray.impact.tasks import score_rows
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.realign.reference import STORED, reference_place
from trace_ray.realign.stage import _store_reference
from trace_ray.report.sections.problems import problems_section
from trace_ray.runs.artifacts import SCORES, Run
from trace_ray.storage.location import locate

PAIRS = 83
SMALL: dict[str, Any] = {"gold_size": 7, "shard_rows": 17, "batch_tokens": 1024, "retain_per_conflict": 1.0}


def triaged_run(place: Path) -> Run:
    """A run whose triage is done, by the oracle."""
    run = Run(locate(str(place), StorageConfig()))
    run.triaged.begin({"pairs": PAIRS})
    table = world.triaged(PAIRS)
    (run.triaged.place / "part-0.parquet").write_parquet(table)
    names = table["category"].to_pylist()
    counts = {"triaged": PAIRS} | {f"train {name}": names.count(name) for name in set(names)}
    run.triaged.publish(counts=counts, seconds=0.0, schema=TRIAGED_SCHEMA)
    return run


def config(**impact: Any) -> Config:
    lora = LoraSettings(r=4, alpha=4, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))
    return Config(model=world.POLICY, lora=lora, corpus=CorpusConfig(), impact=ImpactConfig(**{**SMALL, **impact}))


def impacts(run: Run) -> list[float]:
    rows = run.scored.read(["row", "impact"]).to_pylist()
    return [row["impact"] for row in sorted(rows, key=lambda row: row["row"]) if row["impact"] is not None]


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = triaged_run(tmp_path_factory.mktemp("lora"))
    run_impact(run, config())
    return run


def test_other_shards_and_a_killed_worker_give_the_same_scores(
    lora: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run scores in shards of 5; the worker of one of them is killed once, at its first task."""
    run = triaged_run(tmp_path)
    marker = str(tmp_path / "killed")

    def dying(*arguments: Any) -> Any:
        if not os.path.exists(marker):
            Path(marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return score_rows(*arguments)

    monkeypatch.setattr(stage, "score_rows", dying)
    run_impact(run, config(shard_rows=5))
    assert os.path.exists(marker)
    assert run.impact.manifest()["model_loads"] <= ray.cluster_resources()["CPU"] + 1
    assert tiny.relative_error(impacts(run), impacts(lora)) <= 1e-4
    assert len((run.impact.place / SCORES).files(".json")) == -(-PAIRS // 5)


def test_actors_load_the_model_once_whatever_the_shards(lora: Run, tmp_path: Path) -> None:
    """Gold shards, curvature products and more than 40 shards of pairs on two actors."""
    run = triaged_run(tmp_path)
    solve = {"curvature": "gauss_newton", "curvature_pairs": 5, "gamma": 0.01, "cg_tolerance": 1e-2}
    run_impact(run, config(shard_rows=2, num_cpus=ray.cluster_resources()["CPU"] / 2, **solve))
    assert len((run.impact.place / SCORES).files(".json")) > 40
    manifest = run.impact.manifest()
    assert 1 <= manifest["model_loads"] <= 2
    assert manifest["run_as"] == {"packing": "rows", "kernels": "none", "batch_tokens": 1024}
    assert len(impacts(run)) == len(impacts(lora))


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
    _store_reference(run, settings)  # nothing is left to do
    assert json.loads((run.realign.place / STORED).read_text()) == facts


def test_the_manifest_reports_each_category(lora: Run) -> None:
    manifest = lora.impact.manifest()
    for summary in manifest["summary"].values():
        assert {"share_clamped", "q25", "median", "q75", "effective_sample_size", "weight_share"} <= set(summary)
    assert sum(summary["weight_share"] for summary in manifest["summary"].values()) == pytest.approx(1.0)
    assert manifest["direction"]["parts"] == ["direction.safetensors"]


def test_a_direction_in_parts_is_the_same_direction(lora: Run, tmp_path: Path) -> None:
    run = triaged_run(tmp_path)
    run_impact(run, config(part_bytes=4000))
    assert len(run.impact.manifest()["direction"]["parts"]) > 3
    assert tiny.relative_error(impacts(run), impacts(lora)) <= 1e-4


def test_full_scores_every_weight(tmp_path: Path) -> None:
    """Against autograd on the pair of the largest impact, with the direction that was stored."""
    from trace_ray.impact.tasks import read_direction

    run = triaged_run(tmp_path)
    run_impact(run, config(parameters="full"))
    assert not (run.impact.place / "adapter_init").exists()
    model, direction = world.policy(parameters="full"), read_direction(run)
    assert set(direction) == {name for name, _ in model.named_parameters()}
    rows = [row for row in run.scored.read().to_pylist() if row["category"] == "INVERT"]
    row = max(rows, key=lambda row: row["impact"])
    logp = {side: tiny.log_prob(model, row["prompt_ids"], row[f"{side}_ids"]) for side in ("rejected", "chosen")}
    margin = logp["rejected"] - logp["chosen"]
    loss = -(0.3 * (margin - margin.detach())).sigmoid().log()
    assert row["impact"] == pytest.approx(tiny.derivative(model, loss, direction), rel=1e-4)


def test_gauss_newton_solves_on_tasks_and_logs_its_residuals(tmp_path: Path) -> None:
    run = triaged_run(tmp_path)
    solve = {"curvature": "gauss_newton", "curvature_pairs": 5, "gamma": 0.01, "cg_tolerance": 1e-3}
    run_impact(run, config(**solve))
    about = run.impact.manifest()["direction"]
    assert about["residuals"][0] == 1.0
    assert about["residuals"][-1] <= 1e-3
    assert about["retain_pairs"] == 5
    assert 0 < about["cosine_to_identity"] < 1
    assert np.isfinite(impacts(run)).all()


def test_a_solve_that_does_not_converge_stops_the_run(tmp_path: Path) -> None:
    run = triaged_run(tmp_path)
    solve = {"curvature": "gauss_newton", "curvature_pairs": 5, "gamma": 1e-6, "cg_tolerance": 1e-9}
    with pytest.raises(UserError, match=r"cg_iterations.*residual"):
        run_impact(run, config(cg_iterations=1, **solve))


def test_cuts_are_in_the_manifest_on_the_terminal_and_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held against the uncut lengths of what the terms read; every row of triage is scored, left out or refused."""
    room, run = 42, triaged_run(tmp_path)
    settings = config()
    run_impact(run, replace(settings, model=replace(settings.model, max_length=room)))
    whole = load_chat_tokenizer(replace(settings.model, max_length=1000))
    scored = {row["pair_id"] for row in run.scored.read(["pair_id"]).to_pylist()}
    rows = [row for row in run.triaged.read().to_pylist() if row["pair_id"] in scored]
    read = {"INVERT": ("chosen", "rejected"), "PUNISH": ("chosen", "rejected"), "RETAIN": ("chosen",)}
    texts = [{side: row[side] for side in read[row["category"]]} for row in rows]
    pairs = [pair for pair in whole.pairs([row["prompt"] for row in rows], texts) if isinstance(pair, TokenizedPair)]
    assert len(pairs) == len(rows)
    longer = sum(len(pair.prompt_ids) + max(map(len, pair.response_ids.values())) > room for pair in pairs)
    manifest = run.impact.manifest()
    assert 0 < longer < len(rows)
    assert (manifest["cuts"]["rows"], manifest["cuts"]["cut"]) == (len(rows), longer)
    assert sum(manifest["counts"].values()) + sum(manifest["refused"].values()) == PAIRS
    said = f"{longer} of {len(rows)} rows ({100 * longer / len(rows):.1f} %) are cut at {room} tokens"
    assert said in " ".join(capsys.readouterr().err.split())
    assert said in problems_section(run, "show").cut
