"""Label noise: how much, which rows, what is left alone; the same whatever the order and sharding."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from trace_ray.config import NoiseConfig
from trace_ray.config.load import load_config
from trace_ray.corpus.noise import noise_counts, noise_record, noisy_table, with_label_noise
from trace_ray.errors import UserError
from trace_ray.impact.gold import choose_gold
from trace_ray.pairs import TRIAGED_SCHEMA, hash_fraction


def rows(count: int, split: str = "train", category: str = "RETAIN") -> list[dict[str, Any]]:
    common = {"split": split, "category": category, "p_violates_chosen": 0.1, "p_violates_rejected": 0.9}
    return [{**common, "pair_id": f"{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(count)]


def test_rates_are_met_and_no_row_is_both() -> None:
    before = rows(4000)
    after = with_label_noise(before, NoiseConfig(flip=0.1, swap=0.05))
    flipped = [r for r in after if r["category"] != "RETAIN"]
    swapped = [r for r in after if r["chosen"].startswith("r")]
    assert len(flipped) == pytest.approx(400, abs=60)
    assert len(swapped) == pytest.approx(200, abs=45)
    assert not {r["pair_id"] for r in flipped} & {r["pair_id"] for r in swapped}
    kinds = Counter(r["category"] for r in flipped)
    assert set(kinds) == {"INVERT", "PUNISH"}
    assert min(kinds.values()) > 0.4 * len(flipped)


def test_a_swap_takes_the_verdicts_along() -> None:
    before = rows(1)[0] | {"raw_violates_chosen": 0.2, "raw_violates_rejected": 0.8}
    row = with_label_noise([before | {"clauses_chosen": ["a"], "clauses_rejected": None}], NoiseConfig(swap=1.0))[0]
    assert (row["chosen"], row["rejected"]) == ("r0", "c0")
    assert (row["p_violates_chosen"], row["p_violates_rejected"]) == (0.9, 0.1)
    assert (row["raw_violates_chosen"], row["raw_violates_rejected"]) == (0.8, 0.2)
    assert (row["clauses_chosen"], row["clauses_rejected"]) == (None, ["a"])
    assert row["category"] == "RETAIN"


@pytest.mark.parametrize("seed", [0, 7])
def test_noise_hits_the_gold_batch_no_more_than_other_rows(seed: int) -> None:
    """Both are drawn from hashes of the same ids under the same seed: the gold batch takes the lowest of its own."""
    noise = NoiseConfig(flip=0.1, swap=0.1, seed=seed)
    full = [{**dict.fromkeys(TRIAGED_SCHEMA.names), **row, "prompt": []} for row in rows(3000, category="INVERT")]
    table = pa.Table.from_pylist(full, schema=TRIAGED_SCHEMA)
    damaged = set(noise_record(table, noise)["pair_id"].to_pylist())
    gold = {row["pair_id"] for row in choose_gold([table], 500, seed, corrected=False)}
    drawn = hash_fraction(table["pair_id"].to_pylist(), seed, "retain")
    kept = {pair_id for pair_id, number in zip(table["pair_id"].to_pylist(), drawn, strict=True) if number < 0.2}
    for chosen in (gold, kept):
        assert len(chosen & damaged) / len(chosen) == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(("split", "category"), [("test", "INVERT"), ("train", "ABSTAIN")])
def test_held_out_and_undecided_rows_are_left_alone(split: str, category: str) -> None:
    before = rows(50, split, category)
    assert with_label_noise(before, NoiseConfig(flip=0.5, swap=0.5)) == before


def test_it_depends_on_seed_and_row_alone() -> None:
    before, noise = rows(300), NoiseConfig(flip=0.2, swap=0.1, seed=3)
    whole = {r["pair_id"]: r for r in with_label_noise(before, noise)}
    sharded = [r for i in (280, 7, 113) for r in with_label_noise(before[i : i + 20][::-1], noise)]
    assert all(whole[r["pair_id"]] == r for r in sharded)
    assert whole != {r["pair_id"]: r for r in with_label_noise(before, NoiseConfig(flip=0.2, swap=0.1, seed=4))}


def test_the_record_names_every_damaged_row() -> None:
    full = [{**dict.fromkeys(TRIAGED_SCHEMA.names), **row} for row in rows(200, category="INVERT")]
    table, noise = pa.Table.from_pylist(full, schema=TRIAGED_SCHEMA), NoiseConfig(flip=0.2, swap=0.1)
    after, record = noisy_table(table, noise), noise_record(table, noise)
    changed = {a["pair_id"] for a, b in zip(after.to_pylist(), full, strict=True) if a != b}
    assert changed == set(record["pair_id"].to_pylist())
    assert sum(noise_counts(record).values()) == len(changed)
    assert all(
        r["was"] == "INVERT" and (r["category"] != "INVERT") == (r["kind"] == "flip") for r in record.to_pylist()
    )
    assert noisy_table(table, NoiseConfig()) is table


def test_rates_beyond_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"corpus\.noise"):
        load_config(["conf/examples/demo.yaml"], ["corpus.noise.flip=0.7", "corpus.noise.swap=0.4"])
