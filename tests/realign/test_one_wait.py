"""A training step reads its card once, at its end: run on a device that has no numbers, whatever else reads one raises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import masking_utils

from tests.realign import handmade
from tests.realign.handmade_training import training
from trace_ray.model.transfer import placed, sent
from trace_ray.objective.tokens import TokenPlaces
from trace_ray.realign.engine import PlainEngine


class Unread(PlainEngine):
    """On the meta device: shapes without numbers. What a step's end reads is noted, and given as zeros."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.read: list[torch.Tensor] = []

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        self.read.append(value)
        return torch.zeros(value.shape, dtype=value.dtype)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.tiny_model(tmp_path_factory.mktemp("model") / "m", request.param)


@pytest.mark.parametrize("flat", [False, True])
def test_a_step_reads_its_card_once(folder: Path, flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not flat:  # transformers itself looks in each forward of padded rows whether their positions are packed
        monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _positions: None)
    made = training(folder, flat=flat, device="meta", engine=Unread, max_grad_norm=1.0)
    assert isinstance(made.engine, Unread)
    parts = list(made.parts())
    assert flat or len(parts) > made.plan.steps  # several a step
    assert all(group.batch.input_ids_BT.is_meta for part in parts for group in part.batch.groups)
    for _ in range(2):
        made.train_step()
    assert [value.is_meta for value in made.engine.read] == [True, True]


def test_what_would_be_a_second_read_raises() -> None:
    value = torch.zeros(3, device="meta", requires_grad=True).sum()
    for read in (float, bool, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(value)


def test_the_norm_and_the_flag_come_with_the_figures(folder: Path) -> None:
    made = training(folder)
    made.raises_flag = lambda: made.step == 1  # type: ignore[method-assign]
    norms = []
    step = made.engine.step
    made.engine.step = lambda: norms.append((told := step())[1].item()) or told  # type: ignore[func-returns-value,method-assign]
    flags = []
    for _ in range(3):
        made.train_step()
        flags.append(made.flagged)
    assert flags == [False, True, False]
    assert [row["grad_norm"] for row in made.metrics] == norms
    assert min(norms) > 0


def test_places_of_tokens_by_hand() -> None:
    response_N = torch.tensor([0, 0, 1, 2, 2])
    places = TokenPlaces.of(response_N, scored=[0, 2], compared_K=[[1], [], [2, 1]], anchored=[1, 2])
    assert places.scored.tolist() == [0, 1, 3, 4]
    assert [places_M.tolist() for places_M in places.compared_K] == [[2], [], [2, 3, 4]]
    assert (places.anchor_N[2:].tolist(), places.anchored) == ([0, 1, 2], 3)


def test_numbers_are_sent_as_they_are() -> None:
    device = torch.device("cpu")
    numbers = torch.tensor([1.5, -2.0])
    assert sent(numbers, device) is numbers
    assert sent(numbers, torch.device("meta")).is_meta
    assert torch.equal(placed([1.5, -2.0], torch.float64, device), numbers.double())
    assert placed([], torch.bool, device).dtype == torch.bool
