"""Micro-batches made ahead by a thread: their order, their errors, the thread's end, and the same training to the bit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.realign import handmade
from tests.realign.handmade_training import figures, training
from trace_ray.realign.ahead import THREAD, made_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    started = {number: threading.Event() for number in range(6)}

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            started[number].set()
            yield number
        started[5].set()

    with made_ahead(items()) as coming:
        for number in range(5):
            assert next(coming) == number
            assert started[number + 1].wait(20)  # made though nobody has asked for it
            assert made == list(range(min(5, number + 2)))  # and no more than that
        assert threads()
        assert list(coming) == []
    assert threads() == []


def test_an_error_arrives_as_it_is_where_its_item_is_asked_for() -> None:
    error = KeyError("a row that is not there")

    def items() -> Iterator[int]:
        yield 1
        raise error

    with made_ahead(items()) as coming:
        assert next(coming) == 1
        with pytest.raises(KeyError) as caught:
            next(coming)
    assert caught.value is error
    assert threads() == []


def test_the_thread_ends_where_its_items_are_left() -> None:
    with made_ahead(itertools.count()) as coming:
        assert next(coming) == 0
    assert threads() == []


def test_the_thread_is_prepared_before_it_makes_anything() -> None:
    seen: list[str] = []

    def items() -> Iterator[str]:
        yield f"{threading.current_thread().name.startswith(THREAD)} after {seen}"

    with made_ahead(items(), lambda: seen.append(threading.current_thread().name[: len(THREAD)])) as coming:
        assert list(coming) == [f"True after {[THREAD]}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.tiny_model(tmp_path_factory.mktemp("model") / "m")


def weights(made: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.engine.policy.parameters() if p.requires_grad]


def test_training_ahead_is_the_same_to_the_bit_and_goes_on_where_it_stopped(folder: Path) -> None:
    plain, ahead, stopped = (training(folder) for _ in range(3))
    assert not plain.ahead  # on a CPU the thread would take the step's own time
    ahead.ahead = stopped.ahead = True
    names: list[list[str]] = []
    plain.run(lambda: None)
    ahead.run(lambda: names.append(threads()))
    assert all(len(found) == 1 for found in names)

    def stop() -> None:
        if stopped.step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stopped.run(stop)
    assert stopped.step == 2  # what was made ahead of the next step counts nothing
    stopped.run(lambda: None)
    assert figures(plain) == figures(ahead) == figures(stopped)
    for mine, other, third in zip(*(weights(made) for made in (plain, ahead, stopped)), strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(mine, third)
    assert threads() == []


def test_an_error_of_a_batch_ends_the_training_and_the_thread(folder: Path) -> None:
    made = training(folder)
    made.ahead, error = True, OSError("the node's copy is gone")
    take, calls = made.rows.take, itertools.count()

    def fails(indices: Any) -> Any:
        if next(calls) == 3:
            raise error
        return take(indices)

    made.rows.take = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="copy is gone") as caught:
        made.run(lambda: None)
    assert caught.value is error
    assert threads() == []
