"""The models and pairs of the GPU check: random weights made on the device, real pairs, this project's own settings."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

TARGETS = "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {  # Llama-3.1-8B
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
    },
}


def on_card() -> bool:
    import torch

    return torch.cuda.is_available()


def sync() -> None:
    """Waits until the device has done all it was given."""
    import torch

    if on_card():
        torch.cuda.synchronize()


def clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what the work returns, and its seconds with the device's."""
    sync()
    started = time.perf_counter()
    made = work()
    sync()
    return made, time.perf_counter() - started


def llama(shape: str) -> Any:
    """Returns the configuration of a shape in transformers' terms."""
    from transformers import LlamaConfig

    return LlamaConfig(**SHAPES[shape])


def settings(options: argparse.Namespace, *more: str) -> Any:
    """Returns the configuration of all parts: plain dpo with stored reference log-probs, LoRA r 16 on every linear.

    Args:
        more: settings of the part, ``section.key=value``; those of ``--set`` go over them.
    """
    from trace_ray.config import ObjectiveConfig, TermConfig
    from trace_ray.config.load import read_config

    dtype = "bfloat16" if on_card() else "float32"
    given = [f"model.path={tokenizer_folder()}", f"model.max_length={options.length}", f"model.dtype={dtype}"]
    given += ["lora.r=16", "lora.alpha=32", "lora.dropout=0.0", f"lora.target_modules={TARGETS}"]
    given += [f"impact.batch_tokens={options.batch_tokens}"]
    term = TermConfig(loss="dpo", prefer="chosen", suppress=("rejected",))
    objective = ObjectiveConfig(RETAIN=term, retain="pair", weights="uniform", beta=0.1)
    return replace(read_config([], [*given, *more, *options.set]), objective=objective)


def tokenizer_folder() -> str:
    """Returns where the tokenizer lies: any with a chat template, its tokens among the shape's."""
    return os.path.abspath(os.environ.get("TR_TOK", "models/smollm2-135m-instruct"))


def pairs_file() -> str:
    return os.path.abspath(os.environ.get("TR_PAIRS", "../shared/data/pku_saferlhf_2400.jsonl.gz"))


def raw_pairs(count: int) -> list[dict[str, str]]:
    """Returns the first pairs of the file: prompt, chosen, rejected."""
    from trace_ray.config import StorageConfig
    from trace_ray.corpus.files import raw_rows
    from trace_ray.corpus.read import row_values
    from trace_ray.storage.location import locate

    rows = itertools.islice(raw_rows(locate(pairs_file(), StorageConfig())), count)
    return [row_values(row) for row in rows]


def tokenized(config: Any, count: int) -> list[Any]:
    """Returns as many pairs in tokens, cut to ``model.max_length``."""
    from trace_ray.chat.text import accepted
    from trace_ray.model.loading import load_chat_tokenizer

    lines = raw_pairs(count)
    prompts = [[{"role": "user", "content": line["prompt"]}] for line in lines]
    responses = [{name: line[name] for name in ("chosen", "rejected")} for line in lines]
    return accepted(load_chat_tokenizer(config.model).pairs(prompts, responses))


def tokens_alone(pairs: list[Any]) -> int:
    """Returns the tokens of all responses, each with a prompt of its own."""
    return sum(len(p.prompt_ids) + len(y) for p in pairs for y in p.response_ids.values())


def use_random_weights(make_config: Callable[[], Any]) -> None:
    """Has ``load_model`` make random weights on the device, seed 0, where it would read some: all else stays as it is."""
    import torch
    import transformers

    def made(_: str, *, dtype: Any, attn_implementation: str, **__: Any) -> Any:
        torch.manual_seed(0)
        with torch.device("cuda" if on_card() else "cpu"):
            return transformers.AutoModelForCausalLM.from_config(
                make_config(), dtype=dtype, attn_implementation=attn_implementation
            )

    transformers.AutoModelForCausalLM.from_pretrained = made


def paths_taken(model: Any, config: Any, batch: Any = None) -> dict[str, Any]:
    """Returns which attention and kernels run, as far as the code tells: of the model, its settings and one batch."""
    from trace_ray.model.decoder import causal_lm
    from trace_ray.model.fused import how_run

    asked = {name: getattr(config.model, name) for name in ("packing", "kernels")}
    told = {"asked": asked, **how_run(model), "attention": causal_lm(model).config._attn_implementation}
    return told if batch is None else told | {"flat": batch.layout is not None}
