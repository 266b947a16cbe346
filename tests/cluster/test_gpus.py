"""``auto`` is a number before any stage begins: from the nodes that there are, or that an autoscaler could bring."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from trace_ray.cluster import nodes
from trace_ray.cluster.capacity import NodeGroup, demands
from trace_ray.config import Config, JudgeConfig, RayConfig
from trace_ray.config.gpus import correcting_pool, engine_gpus, judging_pools, of_stages, with_gpus
from trace_ray.config.load import dump_config, load_config, load_text
from trace_ray.runs.artifacts import STAGES

BASE = ["policy.text=Be brief."]
SETTINGS = {
    "impact.num_gpus",
    "realign.use_gpu",
    "evaluate.num_gpus",
    "triage.judge.num_gpus",
    "evaluate.judge.num_gpus",
}


def config_of(*overrides: str) -> Config:
    return load_config([], [*BASE, *overrides])


def anywhere(labels: Mapping[str, str]) -> bool:
    return True


def nowhere(labels: Mapping[str, str]) -> bool:
    return False


def test_every_model_has_one_gpu_where_there_are_some_and_none_elsewhere() -> None:
    config = config_of()
    assert set(of_stages(config, STAGES).values()) == {"auto"}
    found = of_stages(with_gpus(config, anywhere, STAGES), STAGES)
    assert set(found) == SETTINGS
    assert set(found.values()) == {1.0}
    assert set(of_stages(with_gpus(config, nowhere, STAGES), STAGES).values()) == {0.0}


def test_judges_without_a_model_of_their_own_have_none_and_an_engine_what_it_spreads_over() -> None:
    config = config_of(
        "triage.judge={backend: openai, model: m, endpoint: {base_url: http://x/v1}}",
        "triage.first_judge={backend: distilled}",
        "triage.second_judge={backend: vllm, model: s, engine: {tensor_parallel_size: 2, pipeline_parallel_size: 2}}",
        "evaluate.panel=[{backend: vllm, model: p}]",
        "evaluate.engine={tensor_parallel_size: 2}",
    )
    found = with_gpus(config, anywhere, STAGES)
    triage = found.triage
    assert triage.first_judge
    assert triage.second_judge
    assert (triage.judge.num_gpus, triage.first_judge.num_gpus, triage.second_judge.num_gpus) == (0.0, 0.0, 4.0)
    assert found.evaluate.num_gpus == 2.0
    assert [judge.num_gpus for judge in found.evaluate.panel] == [1.0]
    assert engine_gpus({"tensor_parallel_size": 3, "pipeline_parallel_size": 2}) == 6


def test_actors_with_several_judges_have_what_the_largest_asks_for_and_judges_that_take_turns_each_their_own() -> None:
    """The strong one may be an endpoint's, the first one a model: it would have run on the CPU beside its card."""
    config = config_of(
        "triage.judge={backend: openai, model: m, endpoint: {base_url: http://x/v1}, num_cpus: 2, max_actors: 3}",
        "triage.first_judge={backend: vllm, model: f, max_actors: 2, label_selector: {pool: small}}",
        "triage.corrector_judge={backend: vllm, model: c, num_gpus: 2, engine: {tensor_parallel_size: 2}}",
    )
    resolved = with_gpus(config, anywhere, ["triage"])
    triage = resolved.triage
    assert correcting_pool(triage).gpus == 2.0
    asked = [(demand.setting, demand.count, demand.cpus, demand.gpus) for demand in list(demands(resolved))[:2]]
    assert asked == [("triage.first_judge.max_actors", 2, 1.0, 1.0), ("triage.judge.max_actors", 3, 2, 0.0)]
    assert next(demands(resolved)).placing == "triage.first_judge.label_selector"
    rules = replace(triage, judge=JudgeConfig(backend="rules", num_cpus=2, max_actors=3))
    (pool,) = judging_pools(rules).values()
    assert (pool.gpus, pool.num_cpus, pool.max_actors) == (1.0, 2, 3)


def test_numbers_stay_and_what_is_left_auto_is_none_for_whoever_asks_without_a_cluster() -> None:
    config = config_of(
        "impact.num_gpus=0.25", "realign.use_gpu=false", "evaluate.num_gpus=0", "triage.judge.num_gpus=0.5"
    )
    given = {"impact.num_gpus": 0.25, "realign.use_gpu": False, "evaluate.num_gpus": 0.0, "triage.judge.num_gpus": 0.5}
    for there in (anywhere, nowhere):
        found = of_stages(with_gpus(config, there, STAGES), STAGES)
        assert {name: found[name] for name in given} == given
    plain = config_of()
    assert (plain.impact.gpus, plain.realign.gpus, plain.evaluate.gpus, plain.triage.judge.gpus) == (0, 0, 0, 0)


def test_what_a_run_keeps_says_auto_still_so_that_another_cluster_may_go_on_with_it() -> None:
    config = config_of("impact.num_gpus=1")
    again = load_text(dump_config(config), "config.yaml")
    assert (again.impact.num_gpus, again.evaluate.num_gpus, again.realign.use_gpu) == (1, "auto", "auto")
    resolved = load_text(dump_config(with_gpus(config, anywhere, STAGES)), "config.yaml")
    assert (resolved.evaluate.num_gpus, resolved.realign.use_gpu) == (1.0, True)


class FakeState:
    def __init__(self, most: dict[str, int] | None) -> None:
        self.most = most

    def get_max_resources_from_cluster_config(self) -> dict[str, int] | None:
        return self.most


@pytest.mark.parametrize(
    ("gpus", "labels", "types", "impact", "evaluate"),
    [
        (0.0, {}, None, 0.0, 0.0),
        (4.0, {"pool": "trainer"}, None, 1.0, 0.0),  # no node that evaluate may run on has one
        (4.0, {"pool": "judge"}, None, 0.0, 1.0),
        (0.0, {}, {"CPU": 64, "GPU": 0}, 0.0, 0.0),
        (0.0, {}, {"GPU": 8}, 1.0, 1.0),  # none yet: the autoscaler brings them
    ],
)
def test_a_cluster_is_asked_what_it_has_and_what_it_could_have(
    monkeypatch: pytest.MonkeyPatch,
    gpus: float,
    labels: dict[str, str],
    types: dict[str, int] | None,
    impact: float,
    evaluate: float,
) -> None:
    joined: list[Any] = []
    monkeypatch.setattr(nodes, "ensure_ray", joined.append)
    monkeypatch.setattr(nodes, "live_nodes", lambda: [NodeGroup(name="n", cpus=8, gpus=gpus, most=1, labels=labels)])
    monkeypatch.setitem(sys.modules, "ray._private.state", SimpleNamespace(state=FakeState(types)))
    config = config_of(
        "ray.address=ray://somewhere:10001",
        "impact.label_selector={pool: trainer}",
        "evaluate.label_selector={pool: judge}",
    )
    settled = nodes.settle_gpus(config, STAGES)
    assert (settled.impact.num_gpus, settled.evaluate.num_gpus) == (impact, evaluate)
    assert joined == [config.ray]  # once


def test_nothing_is_looked_at_where_there_is_nothing_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "this_machine", lambda: pytest.fail("it was looked"))
    rules = "policy.clauses=[{id: a, text: Be brief., rule: {max_words: 9}}]"
    nodes.settle_gpus(config_of(rules, "triage.judge.backend=rules"), ["triage"])
    nodes.settle_gpus(config_of(), [])


def test_used_gpus_are_told_and_a_model_that_leaves_one_idle_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = NodeGroup(name="this machine", cpus=8, gpus=1, most=1)
    monkeypatch.setattr(nodes, "this_machine", lambda: card)
    monkeypatch.setattr(nodes, "elsewhere", lambda config: False)
    settled = nodes.settle_gpus(config_of("impact.num_gpus=0"), ["impact", "realign"])
    assert settled.realign.on_gpu
    assert capsys.readouterr().err.splitlines() == [
        "GPUs: realign.use_gpu=1",
        "GPUs are left idle, and a model runs on the CPU, by impact.num_gpus=0: auto uses them",
    ]


def test_this_machine_has_the_gpus_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(nodes, "elsewhere", lambda config: False)
    for count in (0, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert nodes.gpus_there(RayConfig())({}) == bool(count)
