"""Tiny random models of the families that must work, and the slow obvious oracle: one autograd call a response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trace_ray.config import LoraSettings
from trace_ray.model.loading import new_adapter

VOCABULARY = 31
SEQUENCES = [([1, 5, 7], [9, 2]), ([1, 4], [3, 8, 6, 11, 2]), ([1], [2]), ([1, 2, 3, 4, 5], [6, 7, 13])]
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"vocab_size": VOCABULARY, "num_key_value_heads": 2, "head_dim": 8}
ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _lively(model: Any) -> Any:
    """Away from initialisation's small and constant values, so that every parameter matters."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _lively(LlamaForCausalLM(LlamaConfig(**SHAPE)))


def llama_with_biases() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _lively(LlamaForCausalLM(LlamaConfig(attention_bias=True, mlp_bias=True, tie_word_embeddings=True, **SHAPE)))


def qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return _lively(Qwen2ForCausalLM(Qwen2Config(**SHAPE)))


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return _lively(Qwen3ForCausalLM(Qwen3Config(**SHAPE)))


def gemma2() -> Any:
    """Soft-capped attention and logits, tied embeddings, norms with weight 1 + w; eager, as sdpa leaves the cap out."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
    config = Gemma2Config(tie_word_embeddings=True, sliding_window=64, **caps, **SHAPE)
    return _lively(Gemma2ForCausalLM._from_config(config, attn_implementation="eager"))


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "llama, tied, biases": llama_with_biases,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
}


def adapted(base: Any, *, at_init: bool, targets: Sequence[str] = ALL_LINEARS) -> Any:
    model = new_adapter(base, LoraSettings(r=4, alpha=8, target_modules=tuple(targets)), 0).eval()
    if not at_init:
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def random_direction(model: Any, seed: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn_like(p) for name, p in trainable(model).items()}


def log_prob(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """log pi(y|x) by the model's own forward, token by token."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].float().log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + i, token] for i, token in enumerate(response)]).sum()


def derivative(model: Any, value: torch.Tensor, direction: Mapping[str, torch.Tensor]) -> float:
    """< direction, grad value >, by autograd on every trainable parameter."""
    parameters = trainable(model)
    gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return sum(float((g.double() * direction[n].double()).sum()) for n, g in pairs if g is not None)


def gradient_norm(model: Any, value: torch.Tensor) -> float:
    gradients = torch.autograd.grad(value, list(trainable(model).values()), allow_unused=True)
    return float(sum(g.double().square().sum() for g in gradients if g is not None) ** 0.5)


def relative_error(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest error as a share of the expected values' root mean square: single values may be near 0."""
    f, e = torch.tensor(list(found)).double(), torch.tensor(list(expected)).double()
    return float((f - e).abs().max() / e.square().mean().sqrt())
