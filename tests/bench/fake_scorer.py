"""Stage 2 without a model's time: workers write parts of the real shape with tokens and impacts drawn by hash.

``install`` goes to Ray as ``worker_process_setup_hook``; the stage, its actors, parts and tallies are the product's own.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

TOKENS = 24
"""Of a prompt and of each response, on average; a corpus of 300 tokens a pair takes four times the bytes."""


def install() -> None:
    """Puts the stand-ins where ``impact.tasks.score_rows`` imports tokenising and scoring from."""
    import trace_ray.impact.rows
    import trace_ray.impact.shard

    trace_ray.impact.rows.tokenized_rows = _tokenized  # type: ignore[assignment]
    trace_ray.impact.shard.score_tokens = _scored


def _tokenized(rows: list[dict[str, Any]], objective: Any, tokenizer: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    return [row | _tokens(row, objective.responses(row["category"])) for row in rows], []


def _tokens(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    seed = int.from_bytes(hashlib.blake2b(row["pair_id"].encode(), digest_size=8).digest(), "big")
    drawn = np.frombuffer(hashlib.shake_128(seed.to_bytes(8, "big")).digest(6 * TOKENS), np.uint16).astype(np.int32)
    lengths = [1 + (seed >> shift) % (2 * TOKENS - 1) for shift in (0, 8, 16)]
    ids = {f"{name}_ids": drawn[:length].tolist() for name, length in zip(names, lengths[1:], strict=False)}
    return {"prompt_ids": drawn[: lengths[0]].tolist(), "cut": [], "impact": 0.5 + (seed % 1000) / 1000, **ids}


def _scored(rows: list[dict[str, Any]], selection: Any, *_: object, **__: object) -> pa.Table:
    from trace_ray.impact.shard import SHARD_SCHEMA

    known = [row | ({} if selection.needs(row["category"]) == "score" else {"impact": None}) for row in rows]
    return pa.Table.from_pylist(known, schema=SHARD_SCHEMA)
