"""What the impact stage writes, by its own work in this process; tests/ray/test_impact_pool.py has it on actors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.impact import tiny, world
from tests.impact.stage_runs import PAIRS, config, impacts, triaged_run
from tests.support.in_process import impact_in_process
from trace_ray.chat.text import TokenizedPair
from trace_ray.errors import UserError
from trace_ray.impact.stage import run_impact
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.report.sections.problems import problems_section
from trace_ray.report.survey.surveys import surveys
from trace_ray.runs.artifacts import Run


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    impact_in_process(monkeypatch)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = triaged_run(tmp_path_factory.mktemp("lora"))
    with pytest.MonkeyPatch.context() as patch:
        impact_in_process(patch)
        run_impact(run, config())
    return run


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


def test_gauss_newton_solves_and_logs_its_residuals(tmp_path: Path) -> None:
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
    assert said in problems_section(run, surveys(run, settings), "show").cut
