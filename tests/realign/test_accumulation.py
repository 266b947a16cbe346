"""Gradients of a bfloat16 model are added up in float32, over micro-batches and over workers, at every ZeRO stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.realign.accumulation import SMALL, main
from tests.support.ranks import run_ranks

STAGES = [
    (1, "optimizer"),
    (3, "none"),
    pytest.param(0, "none", marks=pytest.mark.slow),
    pytest.param(2, "none", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_a_small_gradient_beside_a_large_one_is_not_lost(stage: int, offload: str, tmp_path: Path) -> None:
    """Worker 0 adds 1 and 1/1024, worker 1 twice 1/1024: any sum of these in bfloat16 is off by a thousandth."""
    said = run_ranks(main, (stage, offload), 2, tmp_path)
    norms = [float(line.split()[1]) for text in said for line in text.splitlines() if line.startswith("norm ")]
    assert norms == pytest.approx([64 * (1 + 3 * SMALL) / 2] * 2, rel=1e-4), said
