"""What tests of a selection start from: an empty run, and a tiny model with its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.realign import handmade
from trace_ray.config import StorageConfig
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(locate(str(tmp_path / "run"), StorageConfig()))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path_factory.mktemp("model")))
    return new_adapter(load_model(config.model), config.lora, 0).eval(), config
