"""A demand that a cluster can never meet is said before it waits for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from trace_ray.capacity import Group, read_groups, shortages
from trace_ray.config_load import load_config
from trace_ray.errors import UserError

GROUPS = [
    Group(name="judge", cpus=7, gpus=1, most=4),
    Group(name="trainer", cpus=44, gpus=4, most=1),
]
BASE = ["policy.text=Be brief.", "triage.judge.num_gpus=1", "triage.judge.num_cpus=6", "realign.use_gpu=true"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["triage.judge.max_actors=8", "realign.workers=8"], None),
        (["triage.judge.max_actors=9"], "triage.judge.max_actors: 9 x {CPU: 6, GPU: 1}: the groups hold 8 at most"),
        (["realign.num_cpus=20", "realign.workers=3"], "realign.workers: 3 x {CPU: 20, GPU: 1}: the groups hold 2"),
        (["impact.num_gpus=8"], "impact: {CPU: 1, GPU: 8}: no node is that large"),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], said: str | None) -> None:
    found = shortages(load_config([], [*BASE, *overrides]), GROUPS)
    assert len(found) == (said is not None)
    if said:
        assert found[0].startswith(said)


def test_groups_are_read_from_manifests_and_launcher_files(tmp_path: Path) -> None:
    clusters = Path(__file__).parents[2] / "clusters"
    names = {"cpu", "judge-spot", "judge-on-demand", "trainer-spot", "trainer-on-demand"}
    for file in ("kuberay/gpu-cluster.yaml", "kuberay/gpu-job.yaml", "aws.yaml"):
        groups = read_groups(clusters / file)
        assert {group.name for group in groups} == names
        assert {group.gpus for group in groups if group.name.startswith("trainer")} == {4}
    (tmp_path / "other.yaml").write_text("kind: Service")
    with pytest.raises(UserError, match="no RayCluster"):
        read_groups(tmp_path / "other.yaml")
