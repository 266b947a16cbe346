"""CHES: what plain transformers' hidden states give, however pairs are batched, and what it says of alike pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.impact import tiny
from trace_ray.config import ImpactConfig, ObjectiveConfig, TermConfig
from trace_ray.impact.ches import ches, relation
from trace_ray.impact.shard import Selection, score_tokens
from trace_ray.impact.tally import Tally, tally

CORRECTED = ObjectiveConfig(PUNISH=TermConfig(loss="dpo", prefer="corrected", suppress=("chosen",)))
ANCHORED = ObjectiveConfig(
    INVERT=TermConfig(
        loss="dpop",
        prefer="rejected",
        suppress=("chosen",),
        also=[TermConfig(loss="sft", prefer="rejected", suppress=())],
    )
)


def row(number: int, category: str, **responses: list[int]) -> dict[str, Any]:
    text = dict.fromkeys(("chosen", "rejected", "corrected"), "x")
    ids = {f"{name}_ids": tokens for name, tokens in responses.items()}
    return {"row": number, "pair_id": str(number), "category": category, "prompt_ids": [1, 5, 7], **text, **ids}


ROWS = [
    row(0, "INVERT", chosen=[9, 2], rejected=[3, 8, 6, 11, 2]),
    row(1, "INVERT", chosen=[4, 4, 6, 2], rejected=[4, 4, 5, 2]),
    row(2, "PUNISH", chosen=[9, 12, 2], rejected=[3, 2], corrected=[13, 14, 15, 2]),
    row(3, "PUNISH", chosen=[9, 2], rejected=[10, 2], corrected=[9, 2, 2]),
    row(4, "RETAIN", chosen=[20, 21, 2], rejected=[22, 2]),
]


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest) -> Any:
    made = tiny.adapted(tiny.FAMILIES[request.param](), at_init=True)
    made.direction = tiny.random_direction(made)
    return made.requires_grad_(False)


def scored(model: Any, objective: ObjectiveConfig, **settings: Any) -> list[dict[str, Any]]:
    selection = Selection(objective, 1.0, 0)
    config = ImpactConfig(**{"batch_tokens": 64, **settings})
    return list(score_tokens(ROWS, selection, model, model.direction, config).to_pylist())


def expected(model: Any, prompt: list[int], preferred: list[int], suppressed: list[int]) -> tuple[float, float]:
    """By the definition: inner products of all pairs of the last layer's states, one forward a response, in float64."""

    def states(response: list[int]) -> Any:
        told = model(torch.tensor([[*prompt, *response]]), output_hidden_states=True).hidden_states[-1][0].double()
        return [told[len(prompt) - 1 + k] for k in range(len(response))]

    own, other = states(preferred), states(suppressed)
    cross = sum(float(a @ b) for a in own for b in other)
    itself = sum(float(a @ b) for a in own for b in own)
    return cross - itself, cross / len(own) / len(other) - itself / len(own) ** 2


@pytest.mark.parametrize("settings", [{}, {"share_prompts": False}, {"batch_tokens": 8}, {"score_norm": "cosine"}])
def test_the_columns_are_what_plain_hidden_states_give(model: Any, settings: dict[str, Any]) -> None:
    for found in scored(model, CORRECTED, **settings):
        sides = relation(CORRECTED, found["category"])
        if found["category"] == "RETAIN":
            assert (sides, found["ches"], found["ches_per_token"]) == (None, None, None)
            continue
        assert sides is not None
        own, other = found[f"{sides[0]}_ids"], found[f"{sides[1][0]}_ids"]
        whole, per_token = expected(model, found["prompt_ids"], own, other)
        assert found["ches"] == pytest.approx(whole, rel=1e-4, abs=1e-3)
        assert found["ches_per_token"] == pytest.approx(per_token, rel=1e-4, abs=1e-4)


def test_a_term_that_prefers_nothing_has_none_and_a_list_goes_by_its_relation(model: Any) -> None:
    rows = scored(model, ObjectiveConfig())
    assert {found["row"] for found in rows if found["ches"] is None} == {2, 3, 4}, "npo suppresses both"
    assert relation(ObjectiveConfig(), "PUNISH") is None
    assert relation(ANCHORED, "INVERT") == ("rejected", ("chosen",))
    plain, anchored = (
        [found["ches"] for found in some if found["category"] == "INVERT"] for some in (rows, scored(model, ANCHORED))
    )
    assert anchored == pytest.approx(plain, rel=1e-5)


def test_of_two_sides_that_are_one_nothing_is_left() -> None:
    """The definition's zero, and its sign: a suppressed side that goes along further than the preferred one itself."""
    h = torch.tensor([0.3, -2.0, 1.0])
    assert ches(h, h) == 0
    assert ches(h, 1.5 * h) > 0 > ches(h, torch.tensor([2.0, 0.3, 0.0]))


def test_a_shard_tells_how_many_push_both_ways_and_sums_add_up() -> None:
    import pyarrow as pa

    from trace_ray.impact.shard import SHARD_SCHEMA

    facts = [("INVERT", 0.1), ("INVERT", -0.2), ("INVERT", None), ("PUNISH", 0.3), ("PUNISH", 0.0), ("RETAIN", None)]
    rows = [{"pair_id": str(i), "category": name, "ches_per_token": value} for i, (name, value) in enumerate(facts)]
    tables = [pa.Table.from_pylist(rows[at], schema=SHARD_SCHEMA) for at in (slice(0, 2), slice(2, 5), slice(5, 6))]
    parts = [tally(table, [], ("INVERT", "PUNISH"), 0, 1.0) for table in tables]
    total = sum((Tally.load(part.dump()) for part in parts), Tally())
    assert total.compared == {"INVERT": 2, "PUNISH": 2}
    assert total.both_ways == {"INVERT": 1, "PUNISH": 1}
    older = {name: value for name, value in vars(parts[0]).items() if name not in ("compared", "both_ways")}
    assert Tally(**older).compared == {}, "a shard that an earlier version scored tells of none"
