"""A shard's scores: the same however the rows are split, ordered and batched; each unique response run once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tests.impact import tiny, world
from trace_ray.chat.text import accepted
from trace_ray.config import ImpactConfig, ObjectiveConfig, TermConfig
from trace_ray.impact.direction import gold_gradient
from trace_ray.impact.scores import Direction
from trace_ray.impact.shard import Selection, direction_norm, score_shard
from trace_ray.model import budget, packing
from trace_ray.model.loading import load_chat_tokenizer

ORACLE = ObjectiveConfig(PUNISH=TermConfig(loss="dpo", prefer="rejected", suppress=("chosen",)))


@pytest.fixture(scope="module")
def scene() -> tuple[Any, Direction, Any]:
    tokenizer = load_chat_tokenizer(world.POLICY)
    model = world.policy()
    prompts = [[{"role": "user", "content": "What is the history of Ashford locks?"}]]
    sides = {"preferred": "With care, here is what is known.", "dispreferred": "I cannot help with Ashford locks."}
    (pair,) = accepted(tokenizer.pairs(prompts, [sides]))
    row = {"prompt_ids": pair.prompt_ids, **{f"{side}_ids": ids for side, ids in pair.response_ids.items()}}
    direction = gold_gradient(model, [row], beta=0.3, batch_tokens=512)
    return model.requires_grad_(False), direction, tokenizer


def scores(scene: tuple[Any, Direction, Any], table: pa.Table, objective: Any = None, **settings: Any) -> list[Any]:
    model, direction, tokenizer = scene
    selection = Selection(objective or ObjectiveConfig(), 1.0, 0)
    config = ImpactConfig(**{"batch_tokens": 700, **settings})
    return list(score_shard(table, selection, model, direction, tokenizer, config).to_pylist())


def impacts(rows: list[Any]) -> list[float]:
    return [row["impact"] for row in sorted(rows, key=lambda row: row["row"]) if row["impact"] is not None]


@pytest.mark.parametrize("shards", [2, 3, 7, 60])
def test_sharded_equals_unsharded(scene: tuple[Any, Direction, Any], shards: int) -> None:
    """53 rows, a prime; 60 shards leave some empty."""
    table = world.triaged(53)
    whole = scores(scene, table)
    step = max(1, -(-53 // shards))
    parts = [scores(scene, table.slice(i * step, step)) for i in range(shards)]
    assert any(not part for part in parts) == (shards == 60)
    together = [row for part in reversed(parts) for row in part]
    assert tiny.relative_error(impacts(together), impacts(whole)) <= 1e-4
    assert {row["pair_id"] for row in together} == {row["pair_id"] for row in whole}


def test_an_empty_shard_has_the_schema(scene: tuple[Any, Direction, Any]) -> None:
    model, direction, tokenizer = scene
    empty = world.triaged(5).slice(0, 0)
    table = score_shard(empty, Selection(ObjectiveConfig(), 1.0, 0), model, direction, tokenizer, ImpactConfig())
    assert table.num_rows == 0
    assert "impact" in table.column_names


def test_order_and_batch_size_change_nothing(scene: tuple[Any, Direction, Any]) -> None:
    table = world.triaged(41)
    expected = impacts(scores(scene, table))
    backwards = table.take(list(range(40, -1, -1)))
    assert tiny.relative_error(impacts(scores(scene, backwards, batch_tokens=200)), expected) <= 1e-4


@pytest.mark.parametrize("score_norm", ["none", "per_token"])
def test_a_shared_prompt_changes_no_impact(scene: tuple[Any, Direction, Any], score_norm: str) -> None:
    table = world.triaged(41)
    shared = scores(scene, table, ORACLE, score_norm=score_norm)
    alone = scores(scene, table, ORACLE, score_norm=score_norm, share_prompts=False)
    assert tiny.relative_error(impacts(shared), impacts(alone)) <= 1e-4
    conflicts = [row for row in alone if row["impact"] is not None]
    assert all(row["rejected_s"] is not None for row in conflicts)
    assert any(row["rejected_s"] is None for row in shared if row["impact"] is not None)
    for before, after in zip(shared, alone, strict=True):
        if before["impact"] is None:
            continue
        assert before["rejected_ref_logp"] == pytest.approx(after["rejected_ref_logp"], rel=1e-5)


@pytest.mark.parametrize("retain", ["anchor", "pair"])
def test_retain_pairs_are_scored_where_they_carry_weights(scene: tuple[Any, Direction, Any], retain: str) -> None:
    term = TermConfig(loss="dpo", prefer="chosen", suppress=("rejected",))
    rows = scores(scene, world.triaged(23), ObjectiveConfig(RETAIN=term, retain=retain))
    retained = [row for row in rows if row["category"] == "RETAIN"]
    assert len(retained) > 5
    assert all((row["impact"] is not None) == (retain == "pair") for row in retained)
    assert all(row["chosen_ref_logp"] < 0 and row["rejected_ref_logp"] < 0 for row in retained)


def test_cosine_is_the_impact_over_both_norms(scene: tuple[Any, Direction, Any]) -> None:
    model, direction, _ = scene
    table = world.triaged(41)
    plain, cosine = (scores(scene, table, score_norm=norm) for norm in ("none", "cosine"))
    trained = {name: p for name, p in model.named_parameters() if name in direction}
    for row, scaled in zip(plain, cosine, strict=True):
        if row["category"] != "INVERT":
            continue
        for parameter in trained.values():
            parameter.requires_grad_(True)
        logp = [tiny.log_prob(model, row["prompt_ids"], row[f"{side}_ids"]) for side in ("rejected", "chosen")]
        norm = tiny.gradient_norm(model, -0.15 * (logp[0] - logp[1]))
        model.requires_grad_(False)
        assert scaled["impact"] == pytest.approx(row["impact"] / norm / direction_norm(direction), rel=1e-3)
    assert all(abs(value) <= 1 for value in impacts(cosine))


def test_each_unique_response_runs_once(scene: tuple[Any, Direction, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of the same conflicts and a third with one response of theirs: one row a response, none more."""
    conflicts = [row for row in world.triaged(53).to_pylist() if row["category"] != "RETAIN"]
    again = [row | {"row": 1000 + row["row"], "pair_id": f"again {row['pair_id']}"} for row in conflicts]
    ran: list[Any] = []
    real = packing.pack

    def pack(rows: Any, **how: Any) -> Any:
        ran.extend(rows)
        return real(rows, **how)

    monkeypatch.setattr(budget, "pack", pack)
    rows = scores(scene, pa.Table.from_pylist([*conflicts, *again], schema=world.triaged(5).schema))
    responses = {(tuple(r["prompt_ids"]), tuple(r[f"{n}_ids"])) for r in rows for n in ("chosen", "rejected")}
    assert len(ran) == len(responses)
    first, second = ([r["impact"] for r in rows if r["pair_id"].startswith("again") == it] for it in (False, True))
    assert first == second
