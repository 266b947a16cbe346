"""The parts of a causal language model, with or without a PEFT adapter around it."""

from __future__ import annotations

from typing import Any


def causal_lm(model: Any) -> Any:
    """Returns the Hugging Face causal LM itself, with or without a PEFT adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_decoder(model: Any) -> Any:
    """Returns what turns tokens into the hidden states that the output head reads."""
    causal = causal_lm(model)
    decoder = causal.get_decoder()
    if decoder is not causal:
        return decoder
    embedding = causal.get_input_embeddings()  # Llama 4 answers with itself
    return next(child for child in causal.children() if embedding in child.modules())
