"""A cascade's two judges on a real local Ray: a pool each, one after the other, and the rows of one process."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.in_process import triage_in_process
from tests.triage.test_two_passes import Cheap, Strong, settings, tables, triaged
from trace_ray.config import JudgeConfig
from trace_ray.config.policy import PolicyConfig


def tell(name: str, config: JudgeConfig) -> None:
    """Leaves this process' number in the folder that the judge is told as its model."""
    (Path(config.model) / f"{name}-{os.getpid()}").touch()


class TellingCheap(Cheap):
    def __init__(self, policy: PolicyConfig, config: JudgeConfig) -> None:
        super().__init__(policy, config)
        tell(self.name, config)


class TellingStrong(Strong):
    def __init__(self, policy: PolicyConfig, config: JudgeConfig) -> None:
        super().__init__(policy, config)
        tell(self.name, config)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_judge_has_a_pool_of_its_own_and_the_first_is_gone_before_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor takes all CPUs of the node: the second pool would wait for ever for a first one that stayed."""
    told, cpus = tmp_path / "told", float(os.cpu_count() or 1)
    told.mkdir()

    def judge(name: str) -> JudgeConfig:
        return JudgeConfig(backend=f"tests.ray.test_two_pools:{name}", model=str(told), batch_rows=96, num_cpus=cpus)

    both = replace(settings(), first_judge=judge("TellingCheap"), judge=judge("TellingStrong"))
    run = triaged(tmp_path / "ray", both)
    pids = {name: {file.name for file in told.glob(f"{name}-*")} for name in ("cheap", "strong")}
    assert {name: len(found) for name, found in pids.items()} == {"cheap": 2, "strong": 2}  # to look, and for the rest
    assert run.triaged.manifest()["escalated_share"] > 0
    triage_in_process(monkeypatch)
    assert tables(run) == tables(triaged(tmp_path / "here", both))
