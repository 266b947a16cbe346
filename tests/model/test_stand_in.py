"""Small models of large families: small, of the same kind, and lively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from tests.model import families
from trace_ray.model.stand_in import MOST_WEIGHTS, stand_in


def large(name: str, **more: Any) -> Any:
    return getattr(transformers, name)(**more)


LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
SIZES: dict[str, tuple[str, Callable[[], Any]]] = {
    "llama 70b": (
        "LlamaForCausalLM",
        lambda: large("LlamaConfig", **LLAMA_70B, num_key_value_heads=8, vocab_size=128256),
    ),
    "deepseek v3": ("DeepseekV3ForCausalLM", lambda: large("DeepseekV3Config")),
    "gemma 3 27b": ("Gemma3ForConditionalGeneration", lambda: large("Gemma3Config")),
    "qwen3-next 80b": ("Qwen3NextForCausalLM", lambda: large("Qwen3NextConfig")),
    "nemotron-h": ("NemotronHForCausalLM", lambda: large("NemotronHConfig")),
    "llama 4 scout": ("Llama4ForCausalLM", lambda: large("Llama4TextConfig")),
    "gpt-oss 120b": ("GptOssForCausalLM", lambda: large("GptOssConfig")),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_large_model_is_tried_in_small(name: str) -> None:
    kind, make = SIZES[name]
    config = make()
    before = config.to_dict()
    small = stand_in(getattr(transformers, kind), config)
    assert small is not None
    assert sum(p.numel() for p in small.parameters()) <= MOST_WEIGHTS
    assert config.to_dict() == before
    kinds = getattr(config.get_text_config(), "layer_types", None) or []
    assert set(kinds) == set(getattr(small.config.get_text_config(), "layer_types", None) or [])
    logits = small(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
    assert logits.std() > 0.5


def test_what_multiplies_and_caps_logits_stays() -> None:
    falcon = stand_in(transformers.FalconH1ForCausalLM, large("FalconH1Config", lm_head_multiplier=0.0195))
    gemma = stand_in(transformers.Gemma2ForCausalLM, large("Gemma2Config", final_logit_softcapping=30.0))
    assert falcon is not None
    assert gemma is not None
    assert falcon.config.lm_head_multiplier == 0.0195
    assert gemma.config.final_logit_softcapping == 30.0


def test_a_small_model_is_tried_as_it_is_and_nothing_else_random_moves() -> None:
    model = families.make("llama")
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    small = stand_in(type(model), model.config)
    assert torch.rand(1) == expected
    assert small is not None
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
