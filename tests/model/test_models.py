"""Loading the model to realign."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import trace_ray
from trace_ray.config import ModelConfig
from trace_ray.errors import UserError
from trace_ray.model.loading import load_model
from trace_ray.synth.demo import MODELS

READS = "AutoModelForCausalLM.from_pretrained"


def test_an_attention_whose_package_is_missing_is_a_mistake_in_that_setting() -> None:
    assert importlib.util.find_spec("flash_attn") is None, "installed here: choose another attention for this test"
    with pytest.raises(UserError, match=r"^model\.attention: flash_attention_2: .*; install it, or use sdpa or eager"):
        load_model(ModelConfig(path=str(MODELS / "policy"), attention="flash_attention_2"))


def test_tf32_is_what_the_model_says_whatever_was_set_before() -> None:
    before, seen = torch.backends.cuda.matmul.allow_tf32, []
    models = [ModelConfig(path=str(MODELS / "policy"), tf32=wanted) for wanted in (True, False, True)]
    try:
        for model in (*models, ModelConfig(path=str(MODELS / "policy"))):
            load_model(model)
            seen.append(torch.backends.cuda.matmul.allow_tf32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert seen == [True, False, True, False]


def test_weights_are_read_in_one_place() -> None:
    """So that what it sets for its process holds in scoring, training, drift, top-k and export alike."""
    package = Path(trace_ray.__file__).parent
    reading = {str(path.relative_to(package)) for path in package.rglob("*.py") if READS in path.read_text()}
    assert reading == {"model/loading.py", "model/gguf.py"}  # a GGUF file is rewritten, not run
