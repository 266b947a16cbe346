"""Who lends a gold PUNISH pair its compliant response: drawn apart from the batch, and not one for all."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from trace_ray.impact.gold import choose_gold
from trace_ray.pairs import TRIAGED_SCHEMA


def corpus(retain: int, invert: int, punish: int) -> pa.Table:
    """Pairs whose responses name them: the compliant one of pair 7 is ``compliant 7``."""
    names = ["RETAIN"] * retain + ["INVERT"] * invert + ["PUNISH"] * punish
    rows = [
        {
            "row": i,
            "pair_id": f"{i:032x}",
            "split": "train",
            "prompt": [{"role": "user", "content": f"x{i}"}],
            "chosen": f"compliant {i}" if name == "RETAIN" else f"violating {i}",
            "rejected": f"compliant {i}" if name == "INVERT" else f"violating {i}",
            "category": name,
        }
        for i, name in enumerate(names)
    ]
    return pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA)


def lenders(table: pa.Table, size: int, seed: int) -> list[str]:
    batch = choose_gold([table], size, seed, corrected=False)
    return [str(row["preferred"]) for row in batch if row["category"] == "PUNISH"]


def test_lenders_are_drawn_apart_from_the_batch() -> None:
    """A batch three times as large holds the 60 of 800 pairs that its hash puts first: a lender is rarely one of them."""
    table = corpus(400, 400, 60)
    known = total = 0
    for seed in range(8):
        lent = lenders(table, 30, seed)
        larger = {
            row["preferred"] for row in choose_gold([table], 90, seed, corrected=False) if row["category"] != "PUNISH"
        }
        assert (len(lent), len(larger)) == (10, 60)
        known += len(larger & set(lent))
        total += len(lent)
    assert known / total < 0.25  # 0.075 by chance


def test_every_pair_borrows_from_another_lender_while_there_are_enough() -> None:
    lent = lenders(corpus(400, 400, 60), 30, 0)
    assert len(set(lent)) == len(lent) == 10
    assert all(text.startswith("compliant") for text in lent)


def test_few_lenders_lend_in_turn() -> None:
    counts = Counter(lenders(corpus(2, 1, 60), 30, 0))
    assert sorted(counts.values()) == [9, 9, 9]
