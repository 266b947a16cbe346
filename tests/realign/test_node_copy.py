"""A node's copy of the rows that are trained on: the same rows in the same order as the table in memory, made once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trace_ray.config import ObjectiveConfig, RealignConfig, StorageConfig, TermConfig
from trace_ray.errors import UserError
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.realign import node_copy as module
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.reference import TOP_K_SCHEMA
from trace_ray.realign.training import step_plan
from trace_ray.runs.artifacts import Run
from trace_ray.runs.weights import read_part
from trace_ray.storage.location import Location, locate

RULE = {"of": "impact", "scale": {"INVERT": 2.0, "PUNISH": 0.5}}
CATEGORIES = ("RETAIN", "INVERT", "PUNISH")
COUNT = 103


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_RAY_CACHE", str(tmp_path / "cache"))


def scored_rows() -> list[dict[str, Any]]:
    """Every fourth impact is negative; RETAIN has none."""
    rng, rows = random.Random(0), []
    for i in range(COUNT):
        impact = None if i % 3 == 0 else rng.uniform(0.1, 2.0) * (-1 if i % 4 == 0 else 1)
        row: dict[str, Any] = {"row": i, "pair_id": f"{i:04d}", "category": CATEGORIES[i % 3], "impact": impact}
        for name in ("prompt", "chosen", "rejected"):
            row[f"{name}_ids"] = [rng.randrange(100) for _ in range(rng.randint(1, 9))]
        rows.append(row | {"chosen_ref_logp": -float(i), "rejected_ref_logp": -2.0 * i, "chosen": "text"})
    return rows


def scored_run(folder: Path, *bounds: int) -> Run:
    run = Run(locate(str(folder), StorageConfig()))
    table = pa.Table.from_pylist(scored_rows(), schema=SCORED_SCHEMA).drop_columns(["weight"])
    run.scored.begin({})
    for start, stop in zip((0, *bounds), (*bounds, COUNT), strict=True):
        (run.scored.place / f"part-{start:04d}.parquet").write_parquet(table.slice(start, stop - start))
    run.scored.publish(counts={}, seconds=0.0, weights=RULE)
    return run


def expected_rows(objective: ObjectiveConfig) -> list[dict[str, Any]]:
    """By hand: positive weights, categories with a term."""
    kept = []
    for row in scored_rows():
        weight = max(0.0, row["impact"]) * RULE["scale"][row["category"]] if row["impact"] is not None else 1.0  # type: ignore[index]
        if weight > 0 and objective.terms(row["category"]):
            kept.append(row | {"weight": weight})
    return kept


@pytest.mark.parametrize("bounds", [(), (1, 1, 50), tuple(range(1, COUNT))])
def test_the_rows_are_those_of_the_table_however_it_lies_in_parts(bounds: tuple[int, ...], tmp_path: Path) -> None:
    objective = ObjectiveConfig()
    run = scored_run(tmp_path / "run", *bounds)
    copied, held = TrainingRows.read(run.scored, objective), TrainingRows.of(run.scored.read(), objective)
    expected = expected_rows(objective)
    assert len(copied) == len(expected) < COUNT
    order = np.random.default_rng(0).integers(0, len(expected), 57)
    for rows in (copied, held):
        found = rows.take(order)
        assert [{name: expected[i][name] for name in found[0] if name in expected[i]} for i in order] == found
        assert {"weight", "rejected_ids", "chosen_ref_logp"} < set(found[0])
        assert not {"chosen", "corrected_ids", "impact"} & set(found[0])
        assert rows.pair_ids(order) == [expected[i]["pair_id"] for i in order]
        assert rows.weighed == sum(row["category"] != "RETAIN" for row in scored_rows())
        assert sum(rows.counts.values()) == len(expected)
    assert copied.longest().tolist() == held.longest().tolist()
    plans = [step_plan(rows, RealignConfig(epochs=2, batch=8, length_window=3)) for rows in (copied, held)]
    assert [plans[0].step(i).tolist() for i in range(plans[0].steps)] == [
        plans[1].step(i).tolist() for i in range(plans[1].steps)
    ]


def test_the_copy_is_made_once_and_anew_where_parts_or_the_rule_change(tmp_path: Path, monkeypatch: Any) -> None:
    run, objective, read = scored_run(tmp_path / "run", 40), ObjectiveConfig(), []
    whole = read_part

    def noted(place: Location, *arguments: Any) -> pa.Table:
        read.append(place.name)
        return whole(place, *arguments)

    monkeypatch.setattr(module, "read_part", noted)
    before = TrainingRows.read(run.scored, objective)
    TrainingRows.read(run.scored, objective)
    assert read == ["part-0000.parquet", "part-0040.parquet"]
    first = run.scored.place / "part-0000.parquet"
    first.write_parquet(first.read_parquet().slice(0, 30))
    assert len(TrainingRows.read(run.scored, objective)) < len(before)
    assert len(read) == 4
    TrainingRows.read(run.scored, ObjectiveConfig(RETAIN=TermConfig(loss="skip", prefer="", suppress=())))
    assert len(read) == 6


def test_stored_distributions_come_with_the_rows_that_have_some(tmp_path: Path) -> None:
    run, objective = scored_run(tmp_path / "run", 40), ObjectiveConfig()
    reference = run.realign.place / "reference"
    values: dict[str, Any] = {}
    for name in run.scored.manifest()["parts"]:
        rows = (run.scored.place / name).read_parquet(["pair_id", "category"]).to_pylist()[::-1]
        made = [
            {"pair_id": row["pair_id"], "k": 2, "top_k_ids": [int(row["pair_id"]), 1] * 3, "top_k_log_probs": [0.5] * 6}
            for row in rows
            if row["category"] == "RETAIN"
        ]
        values |= {stored["pair_id"]: stored for stored in made}
        (reference / name).write_parquet(pa.Table.from_pylist(made, schema=TOP_K_SCHEMA))
    rows = TrainingRows.read(run.scored, objective, reference)
    found = rows.take(np.arange(len(rows))[::-1])
    assert {row["category"] for row in found if "top_k_ids" in row} == {"RETAIN"}
    for row in found:
        if row["category"] == "RETAIN":
            assert row["top_k_ids"].tolist() == [[int(row["pair_id"]), 1]] * 3
            assert row["top_k_log_probs"].shape == (3, 2)


def test_rows_none_of_which_can_be_trained_on_are_refused(tmp_path: Path) -> None:
    skip = TermConfig(loss="skip", prefer="", suppress=())
    run = scored_run(tmp_path / "run")
    with pytest.raises(UserError, match=f"{COUNT} pairs, none to train on"):
        TrainingRows.read(run.scored, ObjectiveConfig(INVERT=skip, PUNISH=skip, RETAIN=skip))
