"""Gradients of a bfloat16 model are added up in float32, over micro-batches and over workers, at every ZeRO stage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.realign.accumulation import SMALL

SCRIPT = Path(__file__).with_name("accumulation.py")


STAGES = [
    (1, "optimizer"),
    (3, "none"),
    pytest.param(0, "none", marks=pytest.mark.slow),
    pytest.param(2, "none", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("stage", "offload"), STAGES)
def test_a_small_gradient_beside_a_large_one_is_not_lost(stage: int, offload: str) -> None:
    """Worker 0 adds 1 and 1/1024, worker 1 twice 1/1024: any sum of these in bfloat16 is off by a thousandth."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(Path(__file__).parents[2])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    workers = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(stage), offload],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    norms = [float(line.split()[1]) for text in said for line in text.splitlines() if line.startswith("norm ")]
    assert norms == pytest.approx([64 * (1 + 3 * SMALL) / 2] * 2, rel=1e-4), said
