"""What a survey should say of a run, by plain loops over its rows as Python objects; and runs of random rows to ask it of."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from trace_ray.config import StorageConfig
from trace_ray.pairs import CONFLICTS, REJECT_SCHEMA, SCORED_SCHEMA, TRIAGED_SCHEMA
from trace_ray.report.redact import error_kind
from trace_ray.report.survey.shown import YOUNGER
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

SIDES = ("chosen", "rejected")
CATEGORIES = ("INVERT", "PUNISH", "RETAIN", "ABSTAIN")
CLAUSES = ("brief", "kind", "true")
ERRORS = ("chosen: endpoint 429: too many; rejected: kills the judge", "too long for the judge: 3000\ntokens", "odd")
PARTS = (0, 1, 7, 37, 61)
SHARD = 11
RULE = {"of": "impact", "scale": {"INVERT": 0.5, "PUNISH": 2.0}}


def random_run(folder: Path, *, seed: int, rule: bool, older: int = 2) -> Run:
    """Writes triaged/, rejects/ and scored/ of random rows.

    Args:
        rule: whether weights are a rule of the manifest; older: the part that lacks the younger columns.
    """
    draw, run, number = random.Random(seed), Run(locate(str(folder), StorageConfig())), 0
    for artifact in (run.triaged, run.rejects, run.impact, run.scored):
        artifact.begin({})
    for part, size in enumerate(PARTS):
        rows = [_row(draw, number + i) for i in range(size)]
        number += size
        table = pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA)
        table = table.drop_columns(list(YOUNGER)) if part == older else table
        (run.triaged.place / f"part-{part:03d}.parquet").write_parquet(table)
        refused = [_refused(draw, number + i) for i in range(size // 3)]
        place = run.rejects.place if part % 2 else run.impact.place / "refused"
        (place / f"part-{part:03d}.parquet").write_parquet(pa.Table.from_pylist(refused, schema=REJECT_SCHEMA))
        for start in range(0, size, SHARD):
            scored = [_scored(draw, row) for row in rows[start : start + SHARD] if row["category"] != "ABSTAIN"]
            shard = pa.Table.from_pylist(scored, schema=SCORED_SCHEMA)
            shard = shard.drop_columns(["weight"]) if rule else shard
            (run.scored.place / f"part-{part:03d}-{start:09d}.parquet").write_parquet(shard)
    told: dict[str, Any] = {"policy": {"name": "p", "version": "1", "hash": "0"}, "judge": "j", "used": {}}
    run.triaged.publish(counts={"rows_in": number, "rejects": 0, "triaged": number}, seconds=0, **told)
    run.rejects.publish(counts={}, seconds=0)
    facts = {"summary": {}, "weight_norm": "mean"} | ({"weights": RULE} if rule else {})
    run.impact.publish(counts={}, seconds=0, response_tokens=0, **facts)
    run.scored.publish(counts={}, seconds=0, **facts)
    return run


def _row(draw: random.Random, number: int) -> dict[str, Any]:
    told = {
        f"p_violates_{side}": draw.choice([None, 0.0, 1.0, 0.5, (draw.randrange(1000) + 0.5) / 1000]) for side in SIDES
    }
    named = {f"clauses_{side}": draw.choice([None, [], ["brief"], draw.choices(CLAUSES, k=3)]) for side in SIDES}
    texts = {name: f"{name} {number} " + "word " * draw.randrange(9) for name in SIDES}
    return {
        "row": number,
        "pair_id": f"{draw.getrandbits(128):032x}",
        "source": draw.choice(["a", "b", "<b>"]),
        "split": draw.choice(["train", "train", "test"]),
        "prompt": [{"role": "user", "content": f"prompt {number}"}],
        "category": draw.choice(CATEGORIES),
        "judge_error": draw.choice([None, None, *ERRORS]),
        **told,
        **named,
        **texts,
    }


def _refused(draw: random.Random, number: int) -> dict[str, Any]:
    reason = draw.choice(["broken_json", "empty_field"])
    return {
        "row": number,
        "source": "x",
        "stage": draw.choice(["triage", "impact"]),
        "reason": reason,
        "detail": f"{number}",
    }


def _scored(draw: random.Random, row: dict[str, Any]) -> dict[str, Any]:
    impact = draw.choice([-1.5, 0.0, 2.0, draw.gauss(0, 3)]) if row["category"] in CONFLICTS else None
    alike = draw.choice([None, -0.5, 0.25, draw.gauss(0, 1)])
    return row | {"impact": impact, "weight": 1.0 if impact is None else max(0.0, impact), "ches_per_token": alike}


def broken(row: dict[str, Any]) -> dict[str, list[str]]:
    """Returns {clause: the sides that break it} as triage named them."""
    found: dict[str, list[str]] = {}
    for side in SIDES:
        for clause in dict.fromkeys(row.get(f"clauses_{side}") or ()):
            found.setdefault(clause, []).append(side)
    return found


def counts(rows: Sequence[dict[str, Any]], threshold: float) -> dict[str, Counter[Any]]:
    """Returns each count of ``Triaged``."""
    found: dict[str, Counter[Any]] = {
        name: Counter() for name in ("counts", "verdicts", "certainty", "errors", "clauses")
    }
    for row in rows:
        found["counts"][row["source"], row["split"], row["category"]] += 1
        if row["judge_error"] is not None:
            found["errors"][error_kind(row["judge_error"])] += 1
        for side in SIDES:
            p = row[f"p_violates_{side}"]
            found["certainty"][side, -1 if p is None else min(19, int(p * 20))] += 1
            if p is not None:
                found["verdicts"]["violating" if p >= threshold else "compliant"] += 1
        for clause in broken(row):
            found["clauses"][clause, row["split"], row["category"]] += 1
    return found


def sampled(rows: Sequence[dict[str, Any]], size: int) -> list[str]:
    """Returns the ids of the pairs drawn, of each category and split in turn the lowest that is left."""
    strata: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        strata.setdefault((row["category"], row["split"]), []).append(row["pair_id"])
    left, taken = {key: sorted(ids) for key, ids in sorted(strata.items())}, list[str]()
    while len(taken) < size and any(left.values()):
        taken += [ids.pop(0) for ids in left.values() if ids]
    return taken[:size]


def heaviest(scored: Sequence[dict[str, Any]], ranked_by: str, number: int) -> list[str]:
    known = [row for row in scored if row["impact"] is not None]
    return [row["pair_id"] for row in sorted(known, key=lambda row: (-row[ranked_by], row["pair_id"]))[:number]]


def most_alike(scored: Sequence[dict[str, Any]], number: int) -> list[tuple[str, float]]:
    both_ways = [(row["pair_id"], row["ches_per_token"]) for row in scored if (row["ches_per_token"] or 0.0) > 0]
    return sorted(both_ways, key=lambda pair: (-pair[1], pair[0]))[:number]


def weights(scored: Sequence[dict[str, Any]], category: str) -> list[float]:
    return sorted(row["weight"] for row in scored if row["category"] == category)


def labelled(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Returns labels of every third row, right for every second of these."""
    return {
        row["pair_id"]: row["category"] if at % 2 else CATEGORIES[(CATEGORIES.index(row["category"]) + 1) % 4]
        for at, row in enumerate(rows[::3])
    }
