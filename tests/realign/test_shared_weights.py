"""At ZeRO 3 the first worker alone reads the model: the others have as much memory ready, and nothing read."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model import families
from tests.realign import handmade
from tests.support.ranks import run_ranks
from trace_ray.config import ModelConfig, RealignConfig
from trace_ray.config.load import dump_config, load_config
from trace_ray.errors import UserError
from trace_ray.model.loading import blank_model, load_model
from trace_ray.realign import loop
from trace_ray.realign.setup import adopt_first, prepare_process, shared_weights

STEPS = 3


def without_weights(folder: Path, copy: Path) -> Path:
    """Copies all but the weights."""
    copy.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma3 for images", "deepseek v3", "gpt2"])
def test_a_model_without_weights_is_made_of_the_same_parts(family: str, dtype: str, tmp_path: Path) -> None:
    folder = families.saved(families.make(family), tmp_path / "whole")
    whole = load_model(ModelConfig(path=str(folder), dtype=dtype))
    blank = blank_model(ModelConfig(path=str(without_weights(folder, tmp_path / "bare")), dtype=dtype))
    mine, theirs = (
        [(name, p.shape, p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()]
        for model in (blank, whole)
    )
    assert mine == theirs
    assert dict(blank.named_buffers()).keys() == dict(whole.named_buffers()).keys()
    assert not blank.training
    tied = [model.get_input_embeddings().weight is model.get_output_embeddings().weight for model in (blank, whole)]
    assert tied[0] == tied[1]


def test_where_there_is_no_model_that_is_said_as_by_the_one_that_reads(tmp_path: Path) -> None:
    for read in (blank_model, load_model):
        with pytest.raises(UserError, match=r"^model\.path: "):
            read(ModelConfig(path=str(tmp_path)))


def test_it_is_for_parted_weights_of_several_workers() -> None:
    asked = [(zero, workers) for zero in range(4) for workers in (1, 2)]
    assert [a for a in asked if shared_weights(RealignConfig(zero_stage=a[0]), a[1])] == [(3, 2)]


def test_buffers_come_from_the_first_worker_and_another_model_is_refused_by_all(tmp_path: Path) -> None:
    """A second worker with other buffers adopts the first one's; with another rope it is no worker of this training."""
    folder = families.saved(families.make("llama"), tmp_path / "model")
    other = shutil.copytree(folder, tmp_path / "other")
    told = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(told | {"rms_norm_eps": 0.5}))
    run_ranks(_adopts, (str(folder), str(other)), 2, tmp_path)


def _adopts(folder: str, other: str) -> None:
    torch.distributed.init_process_group("gloo")
    first = os.environ["RANK"] == "0"
    whole = load_model(ModelConfig(path=folder))
    mine = whole if first else blank_model(ModelConfig(path=folder))
    for buffer in () if first else mine.buffers():
        buffer.data = torch.full_like(buffer.data, 7.0)
    adopt_first(folder, mine, None)
    for name, buffer in whole.named_buffers():
        assert torch.equal(dict(mine.named_buffers())[name], buffer), name
    with pytest.raises(UserError, match=r"^model\.path: somewhere: workers find different versions of it"):
        adopt_first("somewhere", whole if first else load_model(ModelConfig(path=other)))


@pytest.mark.slow  # the laws of tests/invariant hold two workers at ZeRO 3 to one, each time
def test_two_workers_of_which_one_reads_train_what_two_readers_train(tmp_path: Path) -> None:
    """The second worker's folder holds no weights: it would end with an error where it read them."""
    model = handmade.tiny_model(tmp_path / "model")
    config = handmade.tiny_config(model, zero_stage=3, workers=2, batch=8)
    full = replace(config, realign=replace(config.realign, tune="full", kl_reference="frozen_copy", learning_rate=1e-3))
    run = handmade.make_run(tmp_path / "run", config)
    jobs = []
    for name, settings in (("lora", config), ("full", full)):
        (tmp_path / f"{name}.yaml").write_text(dump_config(settings))
        jobs.append({"run": run.place.path, "config": str(tmp_path / f"{name}.yaml"), "out": str(tmp_path / name)})
    bare = without_weights(model, tmp_path / "bare")
    run_ranks(_both_ways, (jobs, str(bare)), 2, tmp_path)
    for job in jobs:
        one, all_of_them = (handmade.checkpoint(Path(job["out"] + how))["weights"] for how in ("-one", "-all"))
        assert one.keys() == all_of_them.keys()
        for name, weights in one.items():
            torch.testing.assert_close(weights, all_of_them[name], rtol=0, atol=1e-6)


def _both_ways(jobs: list[dict[str, Any]], bare: str) -> None:
    """One worker: trains with the first one alone reading, then with all."""
    configs = [load_config([job["config"]]) for job in jobs]
    prepare_process(configs[0].realign)
    torch.distributed.init_process_group("gloo")
    for job, config in zip(jobs, configs, strict=True):
        told = job | {"steps": STEPS, "resume": ""}
        second = os.environ["RANK"] == "1"
        lacking = replace(config, model=replace(config.model, path=bare)) if second else config
        handmade._train(told | {"out": job["out"] + "-one"}, lacking)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "shared_weights", lambda *_: False)
            handmade._train(told | {"out": job["out"] + "-all"}, config)
