"""Pairs of a block that are refused before anyone judges them. Equal prompts share a block, so a block knows them all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from trace_ray.pairs import RejectReason, Split


def refusals(pairs: pa.Table, texts: Sequence[str]) -> pa.Table:
    """Returns row, pair_id, reason and detail of the training pairs whose prompt is held out, and of repeated pairs.

    What is held out wins: a pair that is in both splits stays in the test split, whichever was read first.

    Args:
        pairs: SLOT_SCHEMA, ordered by row; texts: their prompts as ``pairs.prompt_text`` has them.
    """
    leaks = _leaks(pairs, texts)
    seen: set[str] = set()
    found: dict[int, tuple[str, str]] = {}
    for i, pair_id in enumerate(pairs["pair_id"].to_pylist()):
        if i in leaks:
            found[i] = RejectReason.HELD_OUT_PROMPT.value, texts[i][:80]
        elif pair_id in seen:
            found[i] = RejectReason.DUPLICATE_PAIR.value, f"pair {pair_id}"
        else:
            seen.add(pair_id)
    refused = pairs.select(["row", "pair_id"]).take(pa.array(list(found), pa.int64()))
    for number, name in enumerate(("reason", "detail")):
        refused = refused.append_column(name, pa.array([both[number] for both in found.values()], pa.string()))
    return refused


def _leaks(pairs: pa.Table, texts: Sequence[str]) -> set[int]:
    """The places of training pairs whose prompt a held-out pair has too; texts first, since turns are slow to compare."""
    held_out = np.asarray(pairs["split"].to_numpy() == Split.TEST.value)
    places: dict[str, list[int]] = {}
    for i in np.flatnonzero(held_out):
        places.setdefault(texts[i], []).append(int(i))
    alike = [int(i) for i in np.flatnonzero(~held_out) if texts[i] in places]
    turns = pairs["prompt"]
    return {i for i in alike if any(turns[i].as_py() == turns[j].as_py() for j in places[texts[i]])}
