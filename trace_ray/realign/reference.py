"""Stored reference distributions for the KL: the k likeliest tokens at each response token, made before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

if TYPE_CHECKING:
    from torch import Tensor

    from trace_ray.model.budget import TokenBudget
    from trace_ray.model.packing import PackedBatch

REFERENCE = "reference"
STORED = "reference.json"
"""In realign/: how often the reference was loaded to store it, and how it was run."""
TOP_K_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("k", pa.int32()),
        ("top_k_ids", pa.list_(pa.int32())),
        ("top_k_log_probs", pa.list_(pa.float32())),
    ]
)
"""One pair: tokens x k ids and log-probs in nats, row by row."""


def reference_place(run: Run) -> Location:
    return run.realign.place / REFERENCE


def top_k_table(
    model: Any, rows: Sequence[Mapping[str, Any]], response: str, k: int, batch_tokens: int | TokenBudget
) -> pa.Table:
    """Returns the reference's distributions of one response of each row, in TOP_K_SCHEMA, row by row.

    Args:
        model: the reference, in evaluation mode, without adapter.
        rows: of scored/; response: the name of the one that is anchored.
        k: tokens kept; all where the vocabulary is smaller.
        batch_tokens: tokens of one forward, padding included; a budget shrinks where a batch does not fit the card.
    """
    from trace_ray.model.budget import TokenBudget, run_batches
    from trace_ray.model.packing import Packed

    packed = [Packed(row["prompt_ids"], (row[f"{response}_ids"],)) for row in rows]
    budget, made = TokenBudget.of(batch_tokens), dict[int, dict[str, Any]]()
    for places, found in run_batches(packed, model, budget, lambda _places, batch: top_k(model, batch, k)):
        for place, (ids_Mk, log_probs_Mk) in zip(places, found, strict=True):
            made[place] = {
                "pair_id": rows[place]["pair_id"],
                "k": ids_Mk.shape[1],
                "top_k_ids": ids_Mk.flatten().numpy(),
                "top_k_log_probs": log_probs_Mk.flatten().numpy(),
            }
    return pa.Table.from_pylist([made[place] for place in range(len(rows))], schema=TOP_K_SCHEMA)


def top_k(model: Any, batch: PackedBatch, k: int) -> list[tuple[Tensor, Tensor]]:
    """Returns, on the CPU, of each response of the batch the k likeliest tokens at each of its M places and their log-probs.

    Both have shape (M, k), log-probs in nats.
    """
    import torch

    from trace_ray.model.head import OutputHead
    from trace_ray.model.packing import hidden_states

    head = OutputHead(model)
    with torch.inference_mode():
        hidden_ND = hidden_states(model, batch)
        parts = [
            head.logits(hidden_ND[at]).log_softmax(-1).topk(min(k, head.vocabulary))
            for at in head.chunks(len(hidden_ND))
        ]
    ids_Nk, log_probs_Nk = torch.cat([p.indices for p in parts]).cpu(), torch.cat([p.values for p in parts]).cpu()
    response_N = batch.response_N.cpu()
    each = [response_N == number for number in range(batch.responses)]
    return [(ids_Nk[mine], log_probs_Nk[mine]) for mine in each]
