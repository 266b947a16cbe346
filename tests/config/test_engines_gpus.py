"""Engines and the GPUs of their actors: what does not go together is said when the settings are read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.config.gpus import alone, in_one_actor, memory_shares
from trace_ray.config.load import load_config
from trace_ray.errors import UserError

BASE = ["policy.text=Be brief."]
SHARE = "gpu_memory_utilization"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["triage.judge={model: m, num_gpus: 1, engine: {tensor_parallel_size: 4}}"],
            (
                "triage.judge.engine.tensor_parallel_size: 4: the engine runs on 4 GPUs, its actor has 1: "
                "give triage.judge.num_gpus=4, or auto"
            ),
        ),
        (
            ["evaluate.num_gpus=4", "evaluate.engine={tensor_parallel_size: 2, pipeline_parallel_size: 4}"],
            (
                "evaluate.engine.pipeline_parallel_size: 4: the engine runs on 8 GPUs, its actor has 4: "
                "give evaluate.num_gpus=8, or auto"
            ),
        ),
        (
            ["evaluate.judge={model: m, num_gpus: 2}"],
            (
                "evaluate.judge.num_gpus: 2: its engine runs on one: "
                "give evaluate.judge.engine.tensor_parallel_size=2 too, or 1"
            ),
        ),
        (
            ["evaluate.panel=[{model: m, num_gpus: 0, engine: {tensor_parallel_size: 2}}]"],
            (
                "evaluate.panel[0].engine.tensor_parallel_size: 2: the engine runs on 2 GPUs, its actor has 0: "
                "give evaluate.panel[0].num_gpus=2, or auto"
            ),
        ),
        (
            ["impact.num_gpus=2"],
            (
                "impact.num_gpus: 2: a scoring actor runs its model on one card: "
                "give 1, a share of one, or auto; more cards get more actors"
            ),
        ),
        (
            ["triage.judge={model: m, engine: {tensor_parallel_size: two}}"],
            "triage.judge.engine.tensor_parallel_size: two: give a number of GPUs, at least 1",
        ),
        (
            ["triage.judge={model: m, engine: {gpu_memory_utilization: 0.92}}", "triage.second_judge={model: s}"],
            (
                "triage.judge.engine.gpu_memory_utilization: 0.92: it shares an actor's card with triage.second_judge: "
                "give less, or leave the shares of all of them out"
            ),
        ),
        (
            [
                "triage.judge={model: m, engine: {gpu_memory_utilization: 0.6}}",
                "triage.corrector_judge={model: s, engine: {gpu_memory_utilization: 0.5}}",
                "triage.correct=true",
            ],
            (
                "triage.judge.engine.gpu_memory_utilization: 0.6: it shares an actor's card with triage.corrector_judge: "
                "give less, or leave the shares of all of them out"
            ),
        ),
    ],
)
def test_engines_that_do_not_fit_their_actor_are_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config([], [*BASE, *overrides])
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "overrides",
    [
        ["triage.judge={model: m, num_gpus: 4, engine: {tensor_parallel_size: 4}}"],
        ["triage.judge={model: m, engine: {tensor_parallel_size: 4}}"],  # auto: four
        ["triage.judge={model: m, num_gpus: 0.5}"],
        ["triage.judge={model: m, num_gpus: 0, engine: {tensor_parallel_size: 4, distributed_executor_backend: ray}}"],
        ["triage.judge={model: m, engine: {gpu_memory_utilization: 0.92}}"],
        [  # they take turns, each with the card to itself; corrections are read by the strong one alone
            "triage.judge={model: m, engine: {gpu_memory_utilization: 0.9}}",
            "triage.first_judge={model: s, engine: {gpu_memory_utilization: 0.9}}",
            "triage.correct=true",
        ],
        [
            "triage.judge={model: m, engine: {gpu_memory_utilization: 0.6}}",
            "triage.first_judge={backend: openai, model: f, endpoint: {base_url: http://x/v1}}",
        ],
    ],
)
def test_engines_that_fit_are_taken(overrides: list[str]) -> None:
    load_config([], [*BASE, *overrides])


def test_engines_of_one_actor_take_no_more_than_a_card_together() -> None:
    assert memory_shares(1, {"a": {}}) == {"a": {SHARE: 0.92}}
    assert memory_shares(4, {"a": {}}) == {"a": {SHARE: 0.92}}
    assert memory_shares(0.5, {"a": {}, "b": {}}) == {"a": {SHARE: 0.23}, "b": {SHARE: 0.23}}
    assert memory_shares(1, {"a": {SHARE: 0.3}, "b": {}, "c": {}}) == {
        "a": {SHARE: 0.3},
        "b": {SHARE: 0.31},
        "c": {SHARE: 0.31},
    }
    assert memory_shares(0, {"a": {}, "b": {}}) == {"a": {}, "b": {}}


def test_judges_of_one_actor_share_its_gpus_and_those_that_read_nowhere_here_count_for_nothing() -> None:
    plain = JudgeConfig(model="m", num_gpus=1, engine={"max_num_seqs": 8})
    rules = JudgeConfig(backend="rules", num_gpus=0)
    made = in_one_actor(TriageConfig(judge=plain, first_judge=rules, second_judge=plain), "second_judge")
    assert made.second_judge is not None
    assert made.judge.engine == made.second_judge.engine == {"max_num_seqs": 8, SHARE: 0.46}
    assert made.first_judge == rules
    behind = replace(plain, backend="openai", num_gpus=0)
    lone = in_one_actor(TriageConfig(judge=behind, first_judge=plain))
    assert lone.first_judge is not None
    assert (lone.judge, lone.first_judge.engine[SHARE], lone.first_judge.num_gpus) == (behind, 0.92, 1)
    unresolved = TriageConfig(judge=JudgeConfig(model="m"))
    assert in_one_actor(unresolved) is unresolved
    assert alone(replace(plain, num_gpus=0.25)).engine[SHARE] == 0.23
    assert SHARE not in alone(replace(plain, num_gpus=0)).engine
