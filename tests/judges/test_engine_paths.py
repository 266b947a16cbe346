"""An engine starts from a folder whatever its name."""

from __future__ import annotations

import glob
import shutil
from pathlib import Path

import pytest

from trace_ray.model.engine import Engine, EngineSettings
from trace_ray.storage.staging import plain_path
from trace_ray.synth.demo import MODELS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_RAY_CACHE", str(tmp_path / "cache"))


def test_a_name_that_is_a_pattern_is_linked_to(tmp_path: Path) -> None:
    folder = tmp_path / "run [x]" / "model?"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert glob.glob(f"{folder}/*.safetensors") == []
    for _ in range(2):
        assert len(glob.glob(f"{plain_path(str(folder))}/*.safetensors")) == 1
    assert plain_path(str(tmp_path)) == str(tmp_path)
    assert plain_path("org/name") == "org/name"


@pytest.mark.slow
def test_vllm_finds_the_weights_of_a_run_in_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "run [x]"
    shutil.copytree(MODELS / "policy", folder)
    engine = Engine(EngineSettings(model=str(folder), max_model_len=128, kv_cache_gib=0.25))
    (answer,) = engine.generate([[5, 6, 7, 8]], 4)
    assert engine.tokens > 4
    assert isinstance(answer, str)
