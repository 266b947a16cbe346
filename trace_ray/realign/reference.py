"""What is stored of the reference for the KL before training, a response token each: likeliest tokens, or hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location

if TYPE_CHECKING:
    import torch

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
HIDDEN_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("width", pa.int32()),
        ("dtype", pa.string()),
        ("reference_hidden", pa.large_binary()),
    ]
)
"""One pair: tokens x width numbers in the model's dtype, what its output head takes, as they lie in memory."""

Rows = Sequence[Mapping[str, Any]]


def reference_place(run: Run) -> Location:
    return run.realign.place / REFERENCE


def top_k_table(model: Any, rows: Rows, response: str, k: int, batch_tokens: int) -> pa.Table:
    """Returns the reference's distributions of one response of each row, in TOP_K_SCHEMA.

    Args:
        model: the reference, in evaluation mode, without adapter.
        rows: of scored/; response: the name of the one that is anchored.
        k: tokens kept; all where the vocabulary is smaller.
        batch_tokens: tokens of one forward, padding included.
    """
    import torch

    from trace_ray.model.head import OutputHead

    head = OutputHead(model)
    made: list[dict[str, Any]] = []
    for chunk, hidden_ND, response_N in _forwards(model, rows, response, batch_tokens):
        with torch.inference_mode():
            parts = [
                head.logits(hidden_ND[at]).log_softmax(-1).topk(min(k, head.vocabulary))
                for at in head.chunks(len(hidden_ND))
            ]
        ids_Nk, log_probs_Nk = torch.cat([p.indices for p in parts]).cpu(), torch.cat([p.values for p in parts]).cpu()
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


def hidden_table(model: Any, rows: Rows, response: str, batch_tokens: int) -> pa.Table:
    """Returns the hidden states from which the reference's head makes its logits of one response of each row, in HIDDEN_SCHEMA.

    Args: as ``top_k_table``.
    """
    import torch

    made: list[dict[str, Any]] = []
    for chunk, hidden_ND, response_N in _forwards(model, rows, response, batch_tokens):
        held_ND = hidden_ND.cpu()
        facts = {"width": held_ND.shape[1], "dtype": str(held_ND.dtype).removeprefix("torch.")}
        for i, row in enumerate(chunk):
            mine = held_ND[response_N == i].contiguous().view(torch.uint8).numpy().tobytes()
            made.append({"pair_id": row["pair_id"], **facts, "reference_hidden": mine})
    return pa.Table.from_pylist(made, schema=HIDDEN_SCHEMA)


def _forwards(
    model: Any, rows: Rows, response: str, batch_tokens: int
) -> Iterator[tuple[Rows, torch.Tensor, torch.Tensor]]:
    """Yields (rows, their tokens' hidden states on the model's device, which of the rows each token is of, on the host)."""
    import torch

    from trace_ray.model.flat import packed_batches
    from trace_ray.model.packing import Packed, hidden_states

    packed = [Packed(row["prompt_ids"], (row[f"{response}_ids"],)) for row in rows]
    for members, batch in packed_batches(packed, model, batch_tokens):
        with torch.inference_mode():
            hidden_ND = hidden_states(model, batch)
        yield [rows[i] for i in members], hidden_ND, batch.response_N.cpu()
