"""When a worker saves: every so many steps meanwhile, at once on a preemption notice, and waits at the end; when it stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trace_ray.config import Config, ObjectiveConfig, RealignConfig, StorageConfig
from trace_ray.errors import CardMemoryError, UserError
from trace_ray.realign import worker
from trace_ray.realign.loop import Trainer
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate


@dataclass
class Steps:
    """A trainer's place in a run of ``last`` steps, without a model; asks for notices at every step."""

    last: int
    step: int = 0
    saves: list[tuple[int, bool]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        return self.step >= self.last

    flagged = True

    def run(self, on_step: Callable[[], None]) -> None:
        while not self.over:
            self.step += 1
            on_step()

    def tell(self) -> None: ...

    def keep_candidate(self) -> None: ...

    def hear_stop(self) -> None: ...

    def save(self, *, wait: bool) -> None:
        self.saves.append((self.step, wait))

    def noticed(self, nodes: list[str]) -> bool:
        news = not set(nodes) <= self.seen
        self.seen |= set(nodes)
        return news


def train(monkeypatch: pytest.MonkeyPatch, notice_from: int = 10**9, **realign: Any) -> list[tuple[int, bool]]:
    """(step, waited for its upload) of each checkpoint of a run of 11 steps, a node's end announced from a step on."""
    import ray.train
    import torch

    trainer = Steps(11)
    info = SimpleNamespace(preempted_node_ids=["node"])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: info if trainer.step >= notice_from else None)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    worker._train(trainer, RealignConfig(checkpoint_steps=4, **realign))
    return trainer.saves


def test_checkpoints_upload_while_training_goes_on_and_the_last_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch) == [(4, False), (8, False), (11, True)]
    assert train(monkeypatch, async_checkpoints=False) == [(4, True), (8, True), (11, True)]


def test_a_notice_brings_one_checkpoint_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch, notice_from=6) == [(4, False), (6, True), (8, False), (11, True)]


@pytest.mark.parametrize(
    ("step", "norms", "epsilon", "over"),
    [
        (7, [1.0, 0.1, 0.1], 0.0, False),
        (7, [1.0, 0.1, 0.1], 0.5, True),  # Algorithm 1: the norm has stayed below epsilon
        (7, [0.1, 1.0, 0.1], 0.5, False),
        (8, [1.0, 1.0, 1.0], 0.5, True),  # T_max
    ],
)
def test_a_run_is_over_at_t_max_or_once_the_norm_stays_low(
    step: int, norms: list[float], epsilon: float, over: bool
) -> None:
    trainer = object.__new__(Trainer)
    trainer.realign = RealignConfig(epsilon=epsilon, epsilon_steps=2)
    trainer._stopped, trainer.objective = False, ObjectiveConfig()
    trainer.step, trainer.metrics = step, [{"grad_norm": norm} for norm in norms]
    trainer.plan = SimpleNamespace(steps=8)  # type: ignore[assignment]
    assert trainer.over is over


def work(folder: Path, monkeypatch: pytest.MonkeyPatch, rank: int, workers: int, met: UserError) -> list[str] | None:
    """What worker ``rank`` leaves behind that meets a mistake as it is made, None for nothing."""
    import ray.train

    def make(*_: Any) -> Any:
        raise met

    context = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: workers)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(worker, "prepare_process", lambda realign: None)
    monkeypatch.setattr(worker, "_make_trainer", make)
    run = Run(locate(str(folder), StorageConfig()))
    run.realign.place.make()
    try:
        worker.train_worker({"run": run, "config": Config()})
    finally:
        told = run.realign.place / worker.MISTAKE
        found = json.loads(told.read_text()) if told.exists() else None
    return found


def test_a_mistake_that_all_workers_meet_is_told_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met = UserError("a.b", 1, "use 2")
    assert work(tmp_path / "a", monkeypatch, 1, 2, met) is None
    assert work(tmp_path / "b", monkeypatch, 0, 2, met) == ["a.b", "1", "use 2"]


def test_a_full_card_ends_the_others_too_and_those_that_ray_starts_anew_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for the worker that met it; its failure ends them, and a restart finds what it has told."""
    met = CardMemoryError("realign.micro_tokens", 8192, "give fewer")
    with pytest.raises(CardMemoryError):
        work(tmp_path, monkeypatch, 1, 2, met)
    told = ["realign.micro_tokens", "8192", "give fewer"]
    assert work(tmp_path, monkeypatch, 0, 2, UserError("another", 0, "mistake")) == told
    assert work(tmp_path / "alone", monkeypatch, 0, 1, met) == told
