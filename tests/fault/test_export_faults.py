"""A finished training is never lost: what its export meets, and checkpoints that somebody empties, on a real Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.realign import handmade
from trace_ray.cli.app import app
from trace_ray.config import Config, RayConfig
from trace_ray.config.load import dump_config
from trace_ray.pipeline import run_stages
from trace_ray.runs.artifacts import Run
from trace_ray.runs.figures import training_figures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """As on a GPU: a bfloat16 model, whose base has a temperature and no do_sample."""
    model = handmade.tiny_model(tmp_path_factory.mktemp("model"))
    (model / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}')
    config = handmade.tiny_config(model, checkpoint_steps=2, async_checkpoints=False)
    return replace(config, model=replace(config.model, dtype="bfloat16"), ray=RayConfig(local_cpus=2))


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that is done, and an export that failed: a file stands where the merged model goes."""
    run = handmade.make_run(tmp_path_factory.mktemp("runs") / "run", config)
    run.write_config(dump_config(config))
    (run.model.place / "merged").write_text("in the way")
    with pytest.raises(Exception, match="merged"):
        run_stages(run, config, ["realign"])
    return run


def checkpoints(run: Run) -> list[Path]:
    return sorted(
        cursor.parent for cursor in (Path(run.realign.place.path) / "checkpoints").glob("checkpoint_*/cursor.json")
    )


def test_an_export_that_fails_leaves_all_that_was_trained_and_can_be_made_alone(run: Run) -> None:
    from transformers import AutoModelForCausalLM

    model = Path(run.model.place.path)
    assert run.realign.done()
    assert not run.model.done()
    assert (model / "adapter" / "adapter_model.safetensors").exists()
    assert len(checkpoints(run)) == 2
    (model / "merged").unlink()
    done = CliRunner().invoke(app, ["export", "--run", run.place.uri], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"model: {model}" in done.output
    assert run.model.done()
    merged = AutoModelForCausalLM.from_pretrained(model / "merged")
    assert merged.dtype == torch.bfloat16
    assert (merged.generation_config.do_sample, merged.generation_config.temperature) == (True, 0.9)
    manifest = run.model.manifest()
    assert manifest["merged_kl"] <= 1e-6 + 8 * manifest["rounding_kl"]
    again = CliRunner().invoke(app, ["export", "--run", run.place.uri], catch_exceptions=False)
    assert again.exit_code == 0


def test_training_goes_on_from_the_checkpoint_before_an_emptied_one(run: Run, config: Config) -> None:
    before = training_figures(run)
    first, last = checkpoints(run)
    for file in last.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    for artifact in (run.realign, run.model):
        Path(artifact.place.path, "_DONE").unlink(missing_ok=True)
    shutil.rmtree(run.model.place.path)
    step = json.loads((first / "cursor.json").read_text())["step"]
    run_stages(run, config, ["realign"])
    after = training_figures(run)
    assert run.model.done()
    assert 0 < step < len(before) == len(after)
    assert [row["samples"] for row in after] == [row["samples"] for row in before]
    assert last not in checkpoints(run)
