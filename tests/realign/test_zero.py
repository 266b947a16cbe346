"""DeepSpeed's stages and numbers of workers train the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from trace_ray.artifacts import Run
from trace_ray.config import StorageConfig
from trace_ray.config_load import conf_folder, load_config
from trace_ray.pipeline import run_stages
from trace_ray.storage import locate
from trace_ray.synth.demo import write_corpus

DEMO = conf_folder() / "examples" / "demo.yaml"
RULES = ["triage.judge.backend=rules", "triage.judge.model=''", "impact.gold_size=9", "realign.learning_rate=1e-4"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    place = locate(str(tmp_path_factory.mktemp("zero") / "run"), StorageConfig())
    overrides = [*write_corpus(place / "corpus"), *RULES, "corpus.limit=100", "realign.num_cpus=1"]
    run_stages(Run(place), load_config([DEMO], overrides), ["triage", "impact"])
    return Path(place.path), overrides


def train(scored: tuple[Path, list[str]], name: str, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from safetensors.torch import load_file

    source, overrides = scored
    folder = source.with_name(name)
    shutil.copytree(source, folder)
    run = Run(locate(str(folder), StorageConfig()))
    run_stages(run, load_config([DEMO], [*overrides, *more]), ["realign"])
    metrics = [json.loads(line) for line in (folder / "realign" / "metrics.jsonl").read_text().splitlines()]
    return load_file(folder / "model" / "adapter" / "adapter_model.safetensors"), metrics


def test_zero_0_on_one_worker_equals_zero_3_on_two(scored: tuple[Path, list[str]]) -> None:
    plain, metrics = train(scored, "zero0", "realign.micro_batch=8")
    sharded, sharded_metrics = train(
        scored, "zero3", "realign.micro_batch=4", "realign.workers=2", "realign.zero_stage=3"
    )
    assert len(metrics) == len(sharded_metrics) >= 10
    assert plain.keys() == sharded.keys()
    for name, value in plain.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-3, atol=2e-5)
    assert any(value.abs().max() > 1e-4 for name, value in plain.items() if "lora_B" in name)
