"""How many tokens a training step runs at once: what is given, or what fits the smallest card of all workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.impact import tiny
from trace_ray.config import Config, ModelConfig, RealignConfig
from trace_ray.model.fit import SHARE
from trace_ray.realign import budget

CPU = torch.device("cpu")
ROOM = 1e8


def config(**realign: Any) -> Config:
    return Config(model=ModelConfig(path="m", max_length=64), realign=RealignConfig(**realign))


def test_a_number_is_taken_as_it_is_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: pytest.fail("nothing to agree on"))
    assert budget.step_tokens(None, CPU, config(micro_tokens=123)) == 123


def test_workers_agree_on_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def all_reduce(mine: torch.Tensor, how: Any) -> None:
        asked.append(how)
        mine.clamp_(max=2048)  # another worker's

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    assert budget.step_tokens(None, CPU, config()) == 2048
    assert asked == [torch.distributed.ReduceOp.MIN]


def test_at_zero_3_the_shape_decides_and_parameters_in_parts_count_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 85 % of the card less the workspace and what is gathered ahead; of weights and moments a worker holds a quarter."""
    model = tiny.llama()
    monkeypatch.setattr(budget, "card_bytes", lambda device: (2 * 2**30 + 2e9 + ROOM) / SHARE)
    asked = config(zero_stage=3, workers=4, tune="full")
    whole = budget._by_shape(model, CPU, asked)
    for parameter in model.parameters():
        parameter.ds_numel, parameter.data = parameter.numel(), torch.empty(0)
    assert budget._by_shape(model, CPU, asked) == whole
    shape = SimpleNamespace(layers=2, numbers=11 * 32 + 4 * 48)
    a_token = shape.layers * 6.3 * 2**20 / 32 * shape.numbers / (11 * 4096 + 4 * 14336) * 2  # float32
    own = sum(parameter.ds_numel for parameter in model.parameters()) * (4 + 4 + 12) / 4
    assert 1000 < whole == int((ROOM - own) / a_token) // 256 * 256
