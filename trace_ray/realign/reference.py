"""Stored reference distributions for the KL: the k likeliest tokens at each response token, made before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

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


def top_k_table(model: Any, rows: Sequence[Mapping[str, Any]], response: str, k: int, batch_tokens: int) -> pa.Table:
    """Returns the reference's distributions of one response of each row, in TOP_K_SCHEMA.

    Args:
        model: the reference, in evaluation mode, without adapter.
        rows: of scored/; response: the name of the one that is anchored.
        k: tokens kept; all where the vocabulary is smaller.
        batch_tokens: tokens of one forward, padding included.
    """
    import torch

    from trace_ray.model.flat import packed_batches
    from trace_ray.model.head import OutputHead
    from trace_ray.model.packing import Packed, hidden_states

    head = OutputHead(model)
    packed = [Packed(row["prompt_ids"], (row[f"{response}_ids"],)) for row in rows]
    made: list[dict[str, Any]] = []
    for members, batch in packed_batches(packed, model, batch_tokens):
        chunk = [rows[i] for i in members]
        with torch.inference_mode():
            hidden_ND = hidden_states(model, batch)
            parts = [
                head.logits(hidden_ND[at]).log_softmax(-1).topk(min(k, head.vocabulary))
                for at in head.chunks(len(hidden_ND))
            ]
        ids_Nk, log_probs_Nk = torch.cat([p.indices for p in parts]).cpu(), torch.cat([p.values for p in parts]).cpu()
        response_N = batch.response_N.cpu()
        for i, row in enumerate(chunk):
            mine = response_N == i
            made.append(
                {
                    "pair_id": row["pair_id"],
                    "k": ids_Nk.shape[1],
                    "top_k_ids": ids_Nk[mine].flatten().numpy(),
                    "top_k_log_probs": log_probs_Nk[mine].flatten().numpy(),
                }
            )
    return pa.Table.from_pylist(made, schema=TOP_K_SCHEMA)
