"""What can be said of a model before its weights are read: its class, its modules' names, its tokenizer's reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trace_ray.chat.text import ChatTokenizer, accepted
from trace_ray.config import ModelConfig
from trace_ray.errors import UserError
from trace_ray.model.decoder import causal_lm
from trace_ray.runtime import environment
from trace_ray.storage.staging import local_model

ATTENTION_FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}
"""What a class of transformers says of the attentions that it has."""


def bare_model(config: ModelConfig) -> Any:
    """Returns the causal language model on torch's meta device: every module, no weights.

    Raises: UserError where there is none at ``config.path``, it is an adapter's folder, or transformers knows no causal
        language model of that kind.
    """
    environment.prepare()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    refuse_adapter(config)
    folder = local_model(config.path, weights=False)
    try:
        known = AutoConfig.from_pretrained(folder, revision=config.revision, trust_remote_code=config.trusted)
    except (OSError, ValueError) as error:
        raise UserError("model.path", config.path, f"no model configuration there: {first_line(error)}") from None
    if hasattr(known, "quantization_config"):
        remedy = "its weights are quantized; name the model in float32 or bfloat16"
        raise UserError("model.path", config.path, remedy)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known, trust_remote_code=config.trusted)
    except ImportError as error:
        raise UserError("model.path", config.path, f"{first_line(error)}; install it") from None
    except (OSError, ValueError) as error:
        said = first_line(error).partition(". ")[0].partition(" for this kind of AutoModel")[0]
        remedy = f"transformers makes no causal language model of it: {said}"
        raise UserError("model.path", config.path, remedy) from None
    refuse_attention(config, model.config)
    model.name_or_path = config.path
    kind, flag = type(model), ATTENTION_FLAGS.get(config.attention, "")
    if not getattr(kind, flag, True):
        raise UserError("model.attention", config.attention, f"{kind.__name__} has none in that form; use eager")
    return model.eval()


def refuse_adapter(config: ModelConfig) -> None:
    """Raises UserError for the folder or hub id of a PEFT adapter: transformers would load its base and train that."""
    from transformers.utils import find_adapter_config_file

    found = find_adapter_config_file(local_model(config.path, weights=False), revision=config.revision)
    if found is not None:
        remedy = (
            "a PEFT adapter (adapter_config.json), no model: merge it into its base (merge_and_unload) and name that"
        )
        raise UserError("model.path", config.path, remedy)


def refuse_attention(config: ModelConfig, known: Any) -> None:
    """Raises UserError where sdpa would leave out a cap on attention logits (Gemma-2)."""
    if config.attention == "sdpa" and getattr(known.get_text_config(), "attn_logit_softcapping", None):
        raise UserError("model.attention", "sdpa", "it leaves out this model's cap on attention logits; use eager")


def check_tokenizer(chat: ChatTokenizer, path: str, rows: int) -> None:
    """Raises UserError where the tokenizer writes tokens that the embedding has no row for.

    Added tokens that no ordinary text holds, such as Gemma 3's for images, may lie beyond it.

    Args:
        path: what the user called the model.
        rows: of the input embedding.
    """
    tokenizer = chat.tokenizer
    added = set(tokenizer.get_added_vocab())
    written = {number for token, number in tokenizer.get_vocab().items() if token not in added}
    for pair in accepted(chat.pairs([[{"role": "user", "content": "a"}]], [{"chosen": "a"}])):
        written.update(pair.prompt_ids, pair.response_ids["chosen"])
    beyond = max(written)
    if beyond >= rows:
        token = tokenizer.convert_ids_to_tokens(beyond)
        remedy = f"its tokenizer writes token {beyond} ({token}), its embedding has {rows} rows: use the model's own "
        raise UserError("model.path", path, f"{remedy}tokenizer, or resize_token_embeddings")


def refuse_unknown_tokens(rows: Sequence[Mapping[str, Any]], model: Any) -> None:
    """Raises UserError for a row with a token that the model's embedding has no row for.

    Args:
        rows: with pair_id, prompt_ids and other names that end so.
    """
    known = causal_lm(model).get_input_embeddings().weight.shape[0]
    for row in rows:
        largest = max(max(ids, default=0) for name, ids in row.items() if name.endswith("_ids") and ids)
        if largest >= known:
            remedy = f"its text holds a token that model.path has no embedding for ({known} rows): take it out"
            raise UserError(f"pair {row['pair_id']}", f"token {largest}", remedy)


def first_line(error: Exception) -> str:
    """Returns what an exception says in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
