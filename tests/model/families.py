"""Tiny random models of families that stand for kinds of trouble: always there, whatever is beside the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trace_ray.synth.demo import MODELS

VOCABULARY = 865
SHAPE: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
SHAPE |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 128}


def make(family: str) -> Any:
    """Returns a causal language model in evaluation mode, with weights large enough for every part to matter."""
    import transformers
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return lively(AutoModelForCausalLM.from_config(FAMILIES[family](transformers)))


def lively(model: Any) -> Any:
    """Away from initialisation's small and constant values, so that every part matters; in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def saved(model: Any, folder: Path) -> Path:
    """Writes the model with the shipped tiny tokenizer."""
    from transformers import AutoTokenizer

    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODELS / "policy").save_pretrained(folder)
    return folder


def _mamba(**more: Any) -> dict[str, Any]:
    return {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2, **SHAPE, **more}


def _gemma3_text(transformers: Any) -> Any:
    return transformers.Gemma3TextConfig(**SHAPE, head_dim=16, **ALTERNATING)


FAMILIES: dict[str, Callable[[Any], Any]] = {
    "llama": lambda t: t.LlamaConfig(**SHAPE),
    "gpt2": lambda t: t.GPT2Config(vocab_size=VOCABULARY, n_positions=256, n_embd=32, n_layer=2, n_head=4),
    "opt": lambda t: t.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
    ),
    "bloom": lambda t: t.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.1, attention_dropout=0.1
    ),
    "falcon_h1": lambda t: t.FalconH1Config(
        **_mamba(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_expand=1), head_dim=8, lm_head_multiplier=0.5
    ),
    "granite": lambda t: t.GraniteConfig(**SHAPE, logits_scaling=4.0),
    "cohere": lambda t: t.CohereConfig(**SHAPE, logit_scale=0.25),
    "nanochat": lambda t: t.NanoChatConfig(**SHAPE, final_logit_softcapping=2.0),
    "gemma3 for images": lambda t: t.Gemma3Config(
        text_config=_gemma3_text(t),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    ),
    "gemma4 for images": lambda t: t.Gemma4Config(
        text_config=t.Gemma4TextConfig(
            **SHAPE,
            **ALTERNATING,
            head_dim=16,
            global_head_dim=16,
            final_logit_softcapping=2.0,
            hidden_size_per_layer_input=0,
            num_kv_shared_layers=0,
        ),
        vision_config=None,
        audio_config=None,
    ),
    "llama4": lambda t: t.Llama4TextConfig(
        **SHAPE,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        intermediate_size_mlp=48,
        attention_chunk_size=64,
        interleave_moe_layer_step=1,
        layer_types=["chunked_attention", "full_attention"],
    ),
    "minicpm3": lambda t: t.MiniCPM3Config(
        **SHAPE | {"num_key_value_heads": 4},
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        dim_model_base=16,
    ),
    "bamba": lambda t: t.BambaConfig(**_mamba(), attn_layer_indices=[1]),
    "qwen3.5": lambda t: t.Qwen3_5TextConfig(
        **SHAPE,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
    "lfm2": lambda t: t.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "mpt": lambda t: t.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=256),
    "deepseek v3": lambda t: t.DeepseekV3Config(
        **SHAPE | {"num_key_value_heads": 4},
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    ),
    "falcon": lambda t: t.FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=True,
        new_decoder_architecture=False,
    ),
    "qwen3 moe": lambda t: t.Qwen3MoeConfig(
        **SHAPE, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1
    ),
}
"""Name -> configuration, given the transformers package."""
