"""A demand that a cluster can never meet is said before it waits for ever."""

from __future__ import annotations

import pytest

from trace_ray.capacity import Group, shortages
from trace_ray.config_load import load_config

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
