"""One cell in process: the same figures again, noise that changes them, and every method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from trace_ray.config import Config, JudgeConfig
from trace_ray.judges.backends import make_judge
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.study.cells import ABLATIONS, METHODS, Cell
from trace_ray.study.corpora import (
    category_counts,
    judge_errors,
    judged_corpus,
    lend_corrections,
)
from trace_ray.study.measure import measure
from trace_ray.study.realign import realign_cell
from trace_ray.study.train import step_budget
from trace_ray.synth.oracle import violates

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def triaged() -> pa.Table:
    config = Cell(method="trace", pairs=80, seed=0).config()
    return judged_corpus(80, 0, make_judge(config.policy, JudgeConfig(backend="rules")), config.triage)


def cell(method: str, **more: Any) -> Config:
    return Cell(method=method, pairs=80, seed=0, **more).config()


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "lora_" in n])


def test_a_cell_can_be_repeated_and_noise_changes_it(triaged: pa.Table) -> None:
    first, again = (realign_cell(triaged, cell("trace")) for _ in range(2))
    assert torch.equal(weights_of(first.model), weights_of(again.model))
    noisy = realign_cell(triaged, cell("trace", noise=0.4))
    assert noisy.facts["trained"] != first.facts["trained"]
    assert set(first.seconds) == {"direction", "scoring", "training", "kl"}
    assert 0 < first.seconds["kl"] < first.seconds["training"]
    assert set(first.peak_bytes) == {"direction", "scoring", "training"}
    assert realign_cell(triaged, cell("no_retain")).seconds["kl"] < 0.05 * first.seconds["kl"]


def test_measures_of_an_untrained_cell_are_the_bases(triaged: pa.Table) -> None:
    config = cell("trace")
    idle = replace(config, realign=replace(config.realign, learning_rate=1e-12))
    found = measure(realign_cell(triaged, idle).model, triaged.to_pylist(), config)
    assert found["tpa"] == 75
    assert found["tpa_by_source"]["sensitive_educational"] == 0
    assert found["kl_to_base"] == pytest.approx(0, abs=1e-6)


def test_the_judged_corpus_is_labelled_and_every_correction_complies(triaged: pa.Table) -> None:
    rows = triaged.to_pylist()
    assert judge_errors(rows) == {"response_error": 0, "pair_error": 0}
    assert sum(category_counts(rows).values()) == 80
    assert not any(violates(row["prompt"][0]["content"], row["corrected"]) for row in rows)
    assert lend_corrections(rows, 0) == rows
    wrong = [{**rows[0], "category": "ABSTAIN", "p_violates_chosen": None}]
    assert judge_errors(wrong) == {"response_error": 0.5, "pair_error": 1}


def test_every_method_takes_the_same_steps_and_u2a_as_many_a_round(triaged: pa.Table) -> None:
    taken: dict[str, int] = {}

    def count(*_: Any) -> None:
        taken[method] = taken.get(method, 0) + 1

    hook = register_optimizer_step_post_hook(count)
    for method in (*METHODS, *ABLATIONS):
        told = realign_cell(triaged, cell(method, overrides=("realign.max_steps=3",))).facts["steps"]
        assert told == taken[method]
    hook.remove()
    assert taken.pop("u2a") == 9
    assert set(taken.values()) == {3}
    assert [step_budget(pairs, cell("trace", variant="one epoch").realign) for pairs in (80, 81)] == [5, 6]


@pytest.mark.parametrize("method", [*METHODS, *ABLATIONS])
def test_every_method_trains(triaged: pa.Table, method: str) -> None:
    trained = realign_cell(triaged, cell(method))
    moved = weights_of(trained.model) - weights_of(new_adapter(load_model(cell(method).model), cell(method).lora, 0))
    assert torch.isfinite(moved).all()
    assert moved.abs().max() > 1e-5
