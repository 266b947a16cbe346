"""What the invariants compare: trainings as JSON trajectories, with one tolerance.

Sums of float32 are rounded otherwise by another order, another number of workers and another processor (AVX2, AVX-512), and
Adam turns the rounding of a small gradient into a step: nothing here is compared to the bit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

Rows = list[dict[str, Any]]
Training = dict[str, Any]
"""``metrics``, a row a step, and ``weights`` by parameter."""

FIGURES: tuple[str, ...] = ("lr", "grad_norm", "samples")
FIGURES += tuple(f"{category}/{name}" for category in ("INVERT", "PUNISH", "RETAIN") for name in ("loss", "weight"))
"""Of each step's figures, those that a trajectory keeps: what does not depend on the machine."""
RELATIVE, ABSOLUTE = 1e-4, 2e-6
WEIGHTS: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-4}
"""Weights are about 0.1 to 0.3 at the end, at lr 1e-2: Adam turns rounding of small gradients into steps."""
STORE = "TRACE_RAY_STORE_TRAJECTORIES"
"""Set in the environment, trajectories are written anew and nothing is compared."""


def trajectory(metrics: Rows) -> Rows:
    """Returns what of each step's figures is stored, rounded to 7 digits."""
    return [
        {"step": row["step"]}
        | {name: float(f"{row[name]:.7g}") if name != "samples" else row[name] for name in FIGURES if name in row}
        for row in metrics
    ]


def assert_same(got: Rows, expected: Rows) -> None:
    """Holds that two trainings saw the same samples and had the same figures, step by step."""
    got, expected = trajectory(got), trajectory(expected)
    assert [row["samples"] for row in got] == [row["samples"] for row in expected]
    for mine, other in zip(got, expected, strict=True):
        numbers, others = ({k: v for k, v in row.items() if k != "samples"} for row in (mine, other))
        assert numbers == pytest.approx(others, rel=RELATIVE, abs=ABSOLUTE)


def assert_same_training(got: Training, expected: Training) -> None:
    """Holds that two trainings had the same steps and ended at the same weights."""
    assert_same(got["metrics"], expected["metrics"])
    for parameter, value in expected["weights"].items():
        torch.testing.assert_close(got["weights"][parameter], value, **WEIGHTS)


def hold(name: str, metrics: Rows) -> None:
    """Compares a training with its stored trajectory, ``NAME.json``."""
    place = Path(__file__).with_name("trajectories") / f"{name}.json"
    if os.environ.get(STORE):
        place.write_text("[\n" + ",\n".join(json.dumps(row) for row in trajectory(metrics)) + "\n]\n")
    assert_same(metrics, json.loads(place.read_text()))
