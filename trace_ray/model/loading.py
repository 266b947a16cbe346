"""Loading causal language models: safetensors only, and no code from a model's folder unless that model is trusted by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trace_ray.chat.template import template_text
from trace_ray.chat.text import ChatTokenizer
from trace_ray.config import LoraSettings, ModelConfig
from trace_ray.errors import UserError
from trace_ray.model.kept import loaded
from trace_ray.model.known import first_line, refuse_adapter, refuse_attention
from trace_ray.runtime import environment
from trace_ray.storage.staging import local_model


def load_tokenizer(path: str, revision: str = "main", trusted: bool = False, setting: str = "model.path") -> Any:
    """Returns the tokenizer. Raises UserError, naming ``setting``, where there is none at ``path``."""
    environment.prepare()
    from transformers import AutoTokenizer

    if path.startswith(("/", ".")) and not Path(path).exists():  # transformers would call it no hub id
        raise UserError(setting, path, "no tokenizer there: no such folder")
    try:
        return AutoTokenizer.from_pretrained(
            local_model(path, weights=False), revision=revision, trust_remote_code=trusted
        )
    except (OSError, ValueError) as error:
        raise UserError(setting, path, f"no tokenizer there: {first_line(error)}") from None


def load_chat_tokenizer(config: ModelConfig) -> ChatTokenizer:
    """Returns the one rendering of text for this model."""
    return ChatTokenizer(model_tokenizer(config), config.max_length, config)


def model_tokenizer(config: ModelConfig) -> Any:
    """Returns the model's tokenizer with the chat template that is used, as the exported model is to have it."""
    tokenizer = load_tokenizer(config.path, config.revision, config.trusted)
    if config.chat_template:
        tokenizer.chat_template = template_text(tokenizer, config.chat_template)
    return tokenizer


def load_model(config: ModelConfig) -> Any:
    """Returns the frozen causal language model in evaluation mode, on CPU; from then on ``model.tf32`` holds in this process.

    Raises: UserError where there is no safetensors model at ``config.path``, it is an adapter's folder, or it caps
        attention logits (Gemma-2), which sdpa would silently not do.
    """
    environment.prepare()
    import torch
    from transformers import AutoModelForCausalLM

    refuse_adapter(config)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            local_model(config.path),
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=config.trusted,
        )
    except ImportError as error:  # an attention whose package is not installed
        remedy = f"{first_line(error)}; install it, or use sdpa or eager"
        raise UserError("model.attention", config.attention, remedy) from None
    except (OSError, ValueError) as error:
        raise UserError("model.path", config.path, f"no safetensors model there: {first_line(error)}") from None
    loaded()
    refuse_attention(config, model.config)
    model.name_or_path = model.config.name_or_path = config.path  # not this node's copy: adapters record it
    return model.eval().requires_grad_(False)


def blank_model(config: ModelConfig) -> Any:
    """Returns the model of ``load_model`` with nothing read: memory for its weights and buffers that nobody has written to.

    Raises: UserError where there is no model at ``config.path``.
    """
    environment.prepare()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    about = {"trust_remote_code": config.trusted}
    made = {"dtype": getattr(torch, config.dtype), "attn_implementation": config.attention}
    try:
        known = AutoConfig.from_pretrained(local_model(config.path, weights=False), revision=config.revision, **about)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known, **made, **about)
    except (ImportError, OSError, ValueError) as error:
        raise UserError("model.path", config.path, f"no model configuration there: {first_line(error)}") from None
    model = model.to_empty(device="cpu")
    model.tie_weights()
    model.name_or_path = model.config.name_or_path = config.path
    return model.eval().requires_grad_(False)


def new_adapter(model: Any, lora: LoraSettings, seed: int) -> Any:
    """Returns ``model`` with a fresh LoRA adapter (B = 0, random A fixed by the seed).

    Raises: UserError for a target name that no linear of the decoder has.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from trace_ray.model.targets import target_linears

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_linears(model, lora.target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def load_adapter(model: Any, folder: str | Path, *, trainable: bool) -> Any:
    """Returns ``model`` with the adapter stored in a local folder."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, use_safetensors=True)
