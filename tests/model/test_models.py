"""Loading the model to realign."""

from __future__ import annotations

import importlib.util

import pytest

from trace_ray.config import ModelConfig
from trace_ray.errors import UserError
from trace_ray.model.loading import load_model
from trace_ray.synth.demo import MODELS


def test_an_attention_whose_package_is_missing_is_a_mistake_in_that_setting() -> None:
    assert importlib.util.find_spec("flash_attn") is None, "installed here: choose another attention for this test"
    with pytest.raises(UserError, match=r"^model\.attention: flash_attention_2: .*; install it, or use sdpa or eager"):
        load_model(ModelConfig(path=str(MODELS / "policy"), attention="flash_attention_2"))
