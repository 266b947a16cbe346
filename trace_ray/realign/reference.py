"""What is stored of the reference for the KL before training, a response token each: likeliest tokens, or hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

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
T = TypeVar("T")


def reference_place(run: Run) -> Location:
    return run.realign.place / REFERENCE


def top_k_table(model: Any, rows: Rows, response: str, k: int, batch_tokens: int | TokenBudget) -> pa.Table:
    """Returns the reference's distributions of one response of each row, in TOP_K_SCHEMA, row by row.

    Args:
        model: the reference, in evaluation mode, without adapter.
        rows: of scored/; response: the name of the one that is anchored.
        k: tokens kept; all where the vocabulary is smaller.
        batch_tokens: tokens of one forward, padding included; a budget shrinks where a batch does not fit the card.
    """
    made = dict[int, dict[str, Any]]()
    for place, (ids_Mk, log_probs_Mk) in _made(model, rows, response, batch_tokens, lambda b: top_k(model, b, k)):
        told = {"k": ids_Mk.shape[1], "top_k_ids": ids_Mk.flatten().numpy()}
        made[place] = told | {"top_k_log_probs": log_probs_Mk.flatten().numpy()}
    return _table(rows, made, TOP_K_SCHEMA)


def hidden_table(model: Any, rows: Rows, response: str, batch_tokens: int | TokenBudget) -> pa.Table:
    """Returns what the reference's head makes its logits of at one response of each row, in HIDDEN_SCHEMA, row by row.

    Args: as ``top_k_table``.
    """
    import torch

    made = dict[int, dict[str, Any]]()
    for place, hidden_MD in _made(model, rows, response, batch_tokens, lambda b: hidden(model, b)):
        told = {"width": hidden_MD.shape[1], "dtype": str(hidden_MD.dtype).removeprefix("torch.")}
        made[place] = told | {"reference_hidden": hidden_MD.contiguous().view(torch.uint8).numpy().tobytes()}
    return _table(rows, made, HIDDEN_SCHEMA)


def _made(
    model: Any,
    rows: Rows,
    response: str,
    batch_tokens: int | TokenBudget,
    make: Callable[[PackedBatch], Sequence[T]],
) -> Iterator[tuple[int, T]]:
    """Yields (place of a row, what is made of its response), batch by batch."""
    from trace_ray.model.budget import TokenBudget, run_batches
    from trace_ray.model.packing import Packed

    packed = [Packed(row["prompt_ids"], (row[f"{response}_ids"],)) for row in rows]
    for places, found in run_batches(packed, model, TokenBudget.of(batch_tokens), lambda _places, batch: make(batch)):
        yield from zip(places, found, strict=True)


def _table(rows: Rows, made: Mapping[int, Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{"pair_id": row["pair_id"], **made[at]} for at, row in enumerate(rows)], schema=schema)


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


def hidden(model: Any, batch: PackedBatch) -> list[Tensor]:
    """Returns, on the CPU, of each response of the batch the hidden states at its M places, shape (M, D)."""
    import torch

    from trace_ray.model.packing import hidden_states

    with torch.inference_mode():
        hidden_ND = hidden_states(model, batch).cpu()
    response_N = batch.response_N.cpu()
    return [hidden_ND[response_N == number] for number in range(batch.responses)]
