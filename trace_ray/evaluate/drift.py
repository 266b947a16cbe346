"""Drift: how far the realigned model moved on what it should keep. Needs no data set, only the run's RETAIN pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from trace_ray.chat.text import TokenizedPair
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.model.budget import TokenBudget, run_batches, trial_batch
from trace_ray.model.head import OutputHead
from trace_ray.model.log_probs import target_log_probs
from trace_ray.model.modes import adapter_off
from trace_ray.model.packing import Packed, PackedBatch, hidden_states
from trace_ray.objective.losses import token_kl


def drift(
    model: Any,
    reference: Any,
    pairs: Sequence[TokenizedPair],
    batch_tokens: int | TokenBudget,
    response: str = "chosen",
) -> dict[str, float]:
    """Returns the figures of all batches of ``drift_sums``."""
    return sum(drift_sums(model, reference, pairs, batch_tokens, response), DriftSum()).figures()


def drift_sums(
    model: Any,
    reference: Any,
    pairs: Sequence[TokenizedPair],
    batch_tokens: int | TokenBudget,
    response: str = "chosen",
) -> Iterator[DriftSum]:
    """Yields the sums of one batch of pairs after the other. Logits are made a chunk of tokens at a time.

    Args:
        model: the realigned model, in evaluation mode.
        reference: the base model; None = ``model`` is a PEFT model and the base is its weights with the adapter off.
        pairs: tokenised RETAIN pairs; ``response`` names the answer that is right.
        batch_tokens: tokens of one forward, padding included; a budget shrinks where a batch does not fit the card.
    """
    rows = [Packed(pair.prompt_ids, (pair.response_ids[response],)) for pair in pairs]
    budget = TokenBudget.of(batch_tokens)
    for _, found in run_batches(rows, model, budget, lambda _places, batch: _batch_sum(model, reference, batch)):
        yield found


def drift_trial(model: Any, reference: Any, tokens: int) -> None:
    """Runs so many tokens once as ``drift_sums`` does: what a trial of the card measures."""
    _batch_sum(model, reference, trial_batch(model, tokens))


@torch.inference_mode()
def _batch_sum(model: Any, reference: Any, batch: PackedBatch) -> DriftSum:
    base = model if reference is None else reference
    head, base_head = OutputHead(model), OutputHead(base)
    with nullcontext() if reference is not None else adapter_off(model):
        base_ND = hidden_states(base, batch)
    realigned_ND = hidden_states(model, batch)
    kl = nll_base = nll_realigned = 0.0
    for at in head.chunks(len(realigned_ND)):  # an adapter never has a part in the head
        base_CV, realigned_CV = base_head.logits(base_ND[at]), head.logits(realigned_ND[at])
        target_C = batch.target_N[at]
        kl += float(token_kl(realigned_CV, base_CV).double().sum())
        nll_base -= float(target_log_probs(base_CV, target_C).double().sum())
        nll_realigned -= float(target_log_probs(realigned_CV, target_C).double().sum())
    return DriftSum(kl, nll_base, nll_realigned, len(batch.target_N), batch.rows)
