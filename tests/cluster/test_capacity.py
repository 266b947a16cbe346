"""A demand that a cluster can never meet is said before it waits for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_ray.cluster.capacity import NodeGroup, shortages, strays
from trace_ray.config.load import load_config
from trace_ray.errors import UserError
from trace_ray.plan.manifest import read_groups

GROUPS = [
    NodeGroup(name="judge", cpus=7, gpus=1, most=4),
    NodeGroup(name="trainer", cpus=44, gpus=4, most=1),
]
BASE = ["policy.text=Be brief.", "triage.judge.num_gpus=1", "triage.judge.num_cpus=6", "realign.use_gpu=true"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["triage.judge.max_actors=8", "realign.workers=8"], None),
        (["triage.judge.max_actors=9"], "triage.judge.max_actors: 9 x {CPU: 6, GPU: 1}: the groups hold 8 at most"),
        (["realign.num_cpus=20", "realign.workers=3"], "realign.workers: 3 x {CPU: 20, GPU: 1}: the groups hold 2"),
        (
            ["impact.num_cpus=90", "impact.num_gpus=1"],
            "impact: 1 x {CPU: 90, GPU: 1}: no node is that large (judge 4 x {CPU: 7, GPU: 1}, trainer",
        ),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], said: str | None) -> None:
    found = [str(problem) for problem in shortages(load_config([], [*BASE, *overrides]), GROUPS)]
    assert len(found) == (said is not None)
    if said:
        assert found[0].startswith(said)


LABELLED = [
    NodeGroup(name="judge", cpus=7, gpus=1, most=8, labels={"trace-ray/pool": "judge"}),
    NodeGroup(name="trainer", cpus=44, gpus=4, most=1, labels={"trace-ray/pool": "trainer"}),
]
JUDGES = "triage.judge.label_selector={trace-ray/pool: judge}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["realign.workers=4", "realign.label_selector={trace-ray/pool: trainer}"], []),
        (["realign.workers=4", "realign.label_selector={trace-ray/pool: '!judge'}"], []),
        (["realign.workers=4", "realign.label_selector={trace-ray/pool: trainer, ray.io/accelerator-type: L40S}"], []),
        (
            ["realign.workers=5", "realign.label_selector={trace-ray/pool: trainer}"],
            [
                "realign.workers: 5 x {CPU: 1, GPU: 1}: the groups with labels {'trace-ray/pool': 'trainer'} hold 4 at most"
            ],
        ),
        (
            ["realign.label_selector={trace-ray/pool: trainers}"],
            ["realign.label_selector: {'trace-ray/pool': 'trainers'}: no worker group has such labels"],
        ),
        (
            ["realign.workers=4"],
            ["realign.label_selector: {}: may land on judge and trainer; name one, such as {trace-ray/pool: judge}"],
        ),
    ],
)
def test_every_bundle_lands_on_its_group_or_is_one_line(overrides: list[str], said: list[str]) -> None:
    config = load_config([], [*BASE, JUDGES, *overrides])
    found = [str(mistake) for mistake in (*shortages(config, LABELLED), *strays(config, LABELLED))]
    assert [mistake[: len(start)] for mistake, start in zip(found, said, strict=True)] == said


def test_where_nothing_is_said_of_pools_no_bundle_strays() -> None:
    assert list(strays(load_config([], [*BASE, "realign.workers=8"]), GROUPS)) == []


def test_groups_are_read_from_manifests(tmp_path: Path) -> None:
    clusters = Path(__file__).parents[2] / "clusters"
    names = {"cpu", "judge-spot", "judge-on-demand", "trainer-spot", "trainer-on-demand"}
    for file in ("base/gpu-cluster/gpu-cluster.yaml", "base/gpu-job/gpu-job.yaml"):
        groups = read_groups(str(clusters / file))
        assert {group.name for group in groups} == names
        assert {group.gpus for group in groups if group.name.startswith("trainer")} == {4}


LAUNCHER = "available_node_types: {head: {}, w: {resources: {CPU: '%s'}, max_workers: '3'}}\nhead_node_type: head"
CLUSTER = "kind: RayCluster\nspec: {workerGroupSpecs: [%s]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Service", "no RayCluster"),
        (CLUSTER % "", "no RayCluster.* with worker groups"),
        (
            CLUSTER % "{groupName: cpu, maxReplicas: 4, rayStartParams: {}}",
            "KeyError 'num-cpus': each worker group must",
        ),
        ("kind: RayJob\nspec: {clusterSelector: {a: b}}", "KeyError 'workerGroupSpecs'"),
        ("kind: [", "while parsing"),
        ("kind: RayCluster\nspec:", "spec is empty, not a mapping: each worker group must"),
        ("kind: RayJob\nspec: {rayClusterSpec: }", "rayClusterSpec is empty, not a mapping"),
        ("kind: RayCluster\nspec: {workerGroupSpecs: {a: b}}", "workerGroupSpecs is a dict, not a list"),
        ("available_node_types: [a]\nhead_node_type: a", "available_node_types is a list, not a mapping"),
        (LAUNCHER % "eight", "could not convert string to float: 'eight'"),
        ("a group: \xe9", "not a text: name a yaml file"),
        (None, "No such file"),
    ],
)
def test_a_file_without_readable_groups_is_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "cluster.yaml"
    if text:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=said) as caught:
        read_groups(str(file))
    assert (caught.value.where, "\n" in str(caught.value)) == ("plan.manifest", False)


def test_numbers_may_be_written_as_texts(tmp_path: Path) -> None:
    group = "{groupName: w, maxReplicas: '3', rayStartParams: {num-cpus: '8'}}"
    for text in (CLUSTER % group, LAUNCHER % 8):
        (tmp_path / "cluster.yaml").write_text(text)
        assert read_groups(str(tmp_path / "cluster.yaml")) == [NodeGroup(name="w", cpus=8, gpus=0, most=3)]
