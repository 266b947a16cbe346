"""A base model with dropout of its own, through the workers' own path: DeepSpeed's engine in training mode."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.realign import handmade
from trace_ray.synth.demo import MODELS


def test_the_first_loss_of_a_model_with_dropout_is_ln_2_and_its_divergence_0(tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(
        GPT2Config(vocab_size=handmade.VOCABULARY, n_positions=256, n_embd=24, n_layer=2, n_head=3)
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODELS / "policy").save_pretrained(folder)
    config = handmade.tiny_config(folder)
    config = replace(config, lora=replace(config.lora, dropout=0.1, target_modules=("c_attn",)))
    run = handmade.make_run(tmp_path / "run", config)
    (first,) = handmade.train(run, config, tmp_path / "out", workers=1, steps=1)["metrics"]
    assert first["INVERT/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["RETAIN/loss"] == pytest.approx(0.0, abs=1e-6)
