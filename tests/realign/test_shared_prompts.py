"""Training whose pairs share their prompts: the steps of one whose responses run apart, from fewer tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.realign import handmade
from trace_ray.config import Config
from trace_ray.model.flat import choose_packing
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.model.sharing import Pays
from trace_ray.objective.batch import SequenceGroup
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.engine import PlainEngine
from trace_ray.realign.layout import group_rows
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.training import Training

FIGURES = ("INVERT/loss", "PUNISH/loss", "RETAIN/loss", "INVERT/margin", "PUNISH/reward_lowered", "grad_norm")


class Watched(PlainEngine):
    """Counts the rows that the policy's forwards have, filler left out."""

    rows = 0

    def __call__(self, groups: Any) -> Any:
        self.rows += sum(group.batch.rows for group in groups if isinstance(group, SequenceGroup))
        return super().__call__(groups)


def trained(
    config: Config, rows: list[dict[str, Any]], pays: Pays | None, *, flat: bool = False
) -> tuple[list[dict[str, Any]], int]:
    """The figures of three steps, and how many rows were run."""
    held = TrainingRows.of(pa.Table.from_pylist(rows, schema=SCORED_SCHEMA), config.objective)
    model = new_adapter(load_model(config.model), config.lora, 0)
    if pays:
        held.share_prompts(pays, flat=flat and choose_packing(model, "flat", "cpu"))
    policy = HybridPolicy(model)
    training = Training(held, config.objective, config.realign, lambda steps: Watched(policy, config.realign, steps))
    training.run(lambda: None)
    assert isinstance(training.engine, Watched)
    return training.metrics, training.engine.rows


def test_the_steps_are_those_of_responses_run_apart(tmp_path: Path) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"), max_steps=3, batch=6)
    model = load_model(config.model)
    rows = handmade.scored_rows(model, 18)
    (apart, more), (shared, fewer) = (trained(config, rows, pays) for pays in (None, lambda *_: True))
    assert (more, fewer) == (18 // 3 * (2 + 2 + 1), 18)
    for mine, other in zip(apart, shared, strict=True):
        # A margin is a difference of sums of some 50 nats, of which float32 keeps 4e-6 each.
        assert {n: other[n] for n in FIGURES} == pytest.approx({n: mine[n] for n in FIGURES}, rel=1e-4, abs=5e-5)
        assert (mine["samples"], mine["tokens"]) == (other["samples"], other["tokens"])
        assert other["padding"] < 0.5


@pytest.mark.parametrize("budget", [4096, 60])
def test_the_steps_of_flat_rows_are_those_of_padded_ones(tmp_path: Path, budget: int) -> None:
    """With anchors beside shared prompts in one row, in one micro-step and in several; without padding."""
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"), max_steps=3, batch=6)
    model = load_model(config.model)
    rows = handmade.scored_rows(model, 18)
    config = replace(config, realign=replace(config.realign, micro_tokens=budget))
    (apart, _), (flat, run) = trained(config, rows, None), trained(config, rows, lambda *_: True, flat=True)
    assert run == 18
    for mine, other in zip(apart, flat, strict=True):
        assert {n: other[n] for n in FIGURES} == pytest.approx({n: mine[n] for n in FIGURES}, rel=1e-4, abs=5e-5)
        assert (mine["samples"], mine["tokens"]) == (other["samples"], other["tokens"])
        assert other["padding"] == 0.0


def test_a_pair_shares_where_that_costs_less_and_no_response_is_compared(tmp_path: Path) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    rows = handmade.scored_rows(load_model(config.model), 6)
    held = TrainingRows.of(pa.Table.from_pylist(rows, schema=SCORED_SCHEMA), config.objective)
    before = held.longest().tolist()
    at = [i for i, row in enumerate(rows) if row["category"] != "RETAIN"]
    lengths = [[len(rows[i][f"{n}_ids"]) for n in config.objective.sequences(rows[i]["category"])] for i in at]
    asked = [(len(rows[i]["prompt_ids"]), some) for i, some in zip(at, lengths, strict=True)]

    def pays(prompt: int, responses: Any) -> bool:
        assert (prompt, responses) in asked
        return (prompt, responses) != asked[1]

    held.share_prompts(pays)
    assert [held.shared(i) for i in range(6)] == [i in at and i != at[1] for i in range(6)]
    prompt, responses = asked[0]
    assert (held.lengths(at[0]), held.anchored(at[0])) == ([prompt + sum(responses)], [False])
    prompt, responses = asked[1]
    assert (held.lengths(at[1]), held.anchored(at[1])) == ([prompt + n for n in responses], [False, False])
    assert held.longest().tolist() == before  # the order of a run does not depend on what is shared


def test_shared_rows_are_run_by_themselves() -> None:
    groups = group_rows([9, 9, 8, 9], [False, True, False, True], overhead=100)
    assert groups == [[0, 2], [1, 3]]
