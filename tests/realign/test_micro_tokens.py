"""How many tokens a training step runs at once: what is given, or what fits the smallest card of all workers."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.impact import tiny
from trace_ray.config import Config, ModelConfig, ObjectiveConfig, RealignConfig
from trace_ray.errors import UserError
from trace_ray.model.fit import SHARE
from trace_ray.model.sharing import Pays, sharing_rule
from trace_ray.pairs import RESPONSE_NAMES, SCORED_SCHEMA
from trace_ray.realign import budget
from trace_ray.realign.budget import refuse_longer
from trace_ray.realign.data import TrainingRows

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


def held(seed: int, count: int = 12) -> TrainingRows:
    """Pairs of random lengths, of which a prompt may be short or long."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        row: dict[str, Any] = {"pair_id": str(number), "category": rng.choice(("INVERT", "PUNISH", "RETAIN"))}
        ids = {f"{name}_ids": [1] * rng.randint(1, 40) for name in RESPONSE_NAMES}
        rows.append(row | ids | {"weight": 1.0, "prompt_ids": [1] * rng.choice((3, rng.randint(1, 80)))})
    table = pa.Table.from_pylist([dict.fromkeys(SCORED_SCHEMA.names) | row for row in rows], schema=SCORED_SCHEMA)
    return TrainingRows.of(table, ObjectiveConfig())


def test_what_runs_at_once_is_the_largest_pair() -> None:
    """Against each row asked by itself, with prompts that none, some and all share."""
    some = sharing_rule(tiny.llama())
    rules: tuple[Pays | None, ...] = (None, some, lambda _, responses: len(responses) > 1)
    found = dict.fromkeys(rules, 0)
    for seed in range(40):
        rows = held(seed)
        for rule in rules:
            if rule:
                rows.share_prompts(rule)
            assert rows.most_at_once() == max(sum(rows.lengths(index)) for index in range(len(rows)))
            found[rule] += rows.most_at_once()
    assert found[None] > found[some] > found[rules[2]], "the rules differ where it counts"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (512, "realign.micro_tokens: 512: a pair's sequences of 513 tokens run at once; give as many, or auto, or"),
        (
            "auto",
            "realign.micro_tokens: auto: a pair's sequences of 513 tokens run at once; 512 fit: give realign.grad",
        ),
    ],
)
def test_a_pair_that_is_longer_than_a_micro_step_is_refused_on_a_gpu(asked: int | str, said: str) -> None:
    card = torch.device("cuda")
    refuse_longer(512, 512, asked, card)
    refuse_longer(513, 1, asked, CPU)
    with pytest.raises(UserError) as refused:
        refuse_longer(513, 512, asked, card)
    assert str(refused.value).startswith(said)
