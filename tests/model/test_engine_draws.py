"""vLLM itself on a CPU: drawing by seeds, of more prompts than it reads at once."""

from __future__ import annotations

import pytest

from trace_ray.model.engine import Engine, EngineSettings, Sampling
from trace_ray.synth.demo import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_many_prompts_are_drawn_from_at_once_and_alike_whatever_is_beside_them() -> None:
    """64 prompts of four answers are read in pieces unless vLLM is told otherwise, at which its CPU generators fail."""
    made = EngineSettings(model=str(MODELS / "policy"), max_model_len=176, kv_cache_gib=0.25, gpus=0, draws=True)
    engine = Engine(made)
    prompts = [[20 + (7 * i + j) % 300 for j in range(10 + i % 30)] for i in range(64)]
    sampling = Sampling(4, 1.0, 0, 24)
    drawn = engine.sampled(prompts, sampling)
    assert [len(answers) for answers in drawn] == [4] * 64
    assert engine.sampled(prompts[5:6], sampling) == drawn[5:6]
    narrow = engine.sampled(prompts[:4], Sampling(4, 1.0, 0, 24, top_p=1e-6))
    greedy = engine.generate(prompts[:4], 24)
    assert [{answer.text for answer in answers} for answers in narrow] == [{text} for text in greedy]
