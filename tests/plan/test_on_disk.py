"""The bytes that a stored reference takes of a disk, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.plan.test_plan_estimate import LOAD, config_of
from tests.realign import handmade
from trace_ray.plan.on_disk import hidden_bytes, with_disk
from trace_ray.plan.stage_row import Reserved, stage_row


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_token_takes_the_models_width(dtype: str, size: int) -> None:
    assert hidden_bytes(7, 24, dtype) == 7 * 24 * size


def test_the_plan_tells_what_hidden_states_take(tmp_path: Path) -> None:
    """24 wide, in float32: 2**24 tokens take 1.5 GiB."""
    folder = handmade.tiny_model(tmp_path / "model")
    stored = config_of("realign.kl_reference=hidden", f"model.path={folder}")
    load = replace(LOAD, reference_tokens=2**24)
    rows = [
        stage_row(name, "12 pairs", 0, [Reserved(1.0, 1, 1, 0)], 0.0, stored.plan) for name in ("impact", "realign")
    ]
    told = [stage.work for stage in with_disk(rows, load, stored)]
    assert told == ["12 pairs", "12 pairs, 1.5 GiB of hidden states on disk and as much again on each node"]
    assert with_disk(rows, load, config_of("realign.kl_reference=top_k")) == rows
    assert with_disk(rows, replace(load, reference_tokens=0), stored) == rows
