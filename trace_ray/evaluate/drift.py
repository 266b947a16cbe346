"""Drift: how far the realigned model moved on what it should keep. Needs no data set, only the run's RETAIN pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from trace_ray.chat.text import TokenizedPair
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.model.batches import token_batches
from trace_ray.model.log_probs import causal_lm, collate, output_logits, response_hidden, target_log_probs
from trace_ray.model.vocabulary import chunks
from trace_ray.objective.losses import token_kl


def drift(
    model: Any, reference: Any, pairs: Sequence[TokenizedPair], batch_tokens: int, response: str = "chosen"
) -> dict[str, float]:
    """Returns the figures of all batches of ``drift_sums``."""
    return sum(drift_sums(model, reference, pairs, batch_tokens, response), DriftSum()).figures()


@torch.inference_mode()
def drift_sums(
    model: Any, reference: Any, pairs: Sequence[TokenizedPair], batch_tokens: int, response: str = "chosen"
) -> Iterator[DriftSum]:
    """Yields the sums of one batch of pairs after the other. Logits are made a chunk of tokens at a time.

    Args:
        model: the realigned model, in evaluation mode.
        reference: the base model; None = ``model`` is a PEFT model and the base is its weights with the adapter off.
        pairs: tokenised RETAIN pairs; ``response`` names the answer that is right.
        batch_tokens: padded tokens of one forward.
    """
    device = next(model.parameters()).device
    base = model if reference is None else reference
    vocabulary = int(causal_lm(model).config.get_text_config().vocab_size)
    lengths = [len(pair.prompt_ids) + len(pair.response_ids[response]) for pair in pairs]
    for indices in token_batches(lengths, batch_tokens):
        chunk = [pairs[i] for i in indices]
        batch = collate([p.prompt_ids for p in chunk], [p.response_ids[response] for p in chunk]).to(device)
        with nullcontext() if reference is not None else model.disable_adapter():
            base_ND = response_hidden(base, batch)
        realigned_ND = response_hidden(model, batch)
        kl = nll_base = nll_realigned = 0.0
        for at in chunks(realigned_ND, vocabulary):
            with nullcontext() if reference is not None else model.disable_adapter():
                base_CV = output_logits(base, base_ND[at])
            realigned_CV, target_C = output_logits(model, realigned_ND[at]), batch.target_N[at]
            kl += float(token_kl(realigned_CV, base_CV).double().sum())
            nll_base -= float(target_log_probs(base_CV, target_C).double().sum())
            nll_realigned -= float(target_log_probs(realigned_CV, target_C).double().sum())
        yield DriftSum(kl, nll_base, nll_realigned, len(batch.target_N), len(chunk))
