"""A training that may start with fewer workers asks a cluster for those, not for all it could use."""

from __future__ import annotations

import pytest

from trace_ray.cluster.capacity import NodeGroup, demands, shortages, unmet
from trace_ray.config.load import load_config

GROUPS = [NodeGroup(name="trainer", cpus=8, gpus=4, most=2)]
BASE = ["policy.text=Be brief.", "realign.use_gpu=true", "realign.num_cpus=1", "realign.workers=16"]


@pytest.mark.parametrize(("least", "count", "fits"), [(0, 16, False), (3, 3, True), (8, 8, True), (9, 9, False)])
def test_the_least_number_of_workers_is_what_must_fit(least: int, count: int, fits: bool) -> None:
    config = load_config([], [*BASE, f"realign.min_workers={least}"])
    (asked,) = [demand.count for demand in demands(config) if demand.setting == "realign.workers"]
    assert asked == count
    short = [str(problem) for problem in shortages(config, GROUPS)]
    lacking = [str(problem) for problem in unmet(config, ["realign"], cpus=16, gpus=8, otherwise="wait")]
    assert (not short, not lacking) == (fits, fits)
    if not fits:
        assert short[0].startswith(f"realign.workers: {count} x {{CPU: 1, GPU: 1}}: the groups hold 8 at most")
        assert lacking == [f"realign: {count} GPU: the cluster has 8: ask for less, or wait"]
