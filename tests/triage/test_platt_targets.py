"""Platt's target smoothing where the fit is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from trace_ray.triage.calibrate import fit_calibration


@pytest.mark.parametrize("bad", [3, 10, 13, 19])
def test_a_judge_that_makes_no_mistake_is_believed_no_further_than_its_labels_reach(bad: int) -> None:
    """Two distinct scores and two parameters: the fit meets Platt's targets, (N+ + 1) / (N+ + 2) and 1 / (N- + 2)."""
    good = 20 - bad
    violates = np.array([True] * bad + [False] * good)
    fitted = fit_calibration("platt", np.where(violates, 0.8, 0.3), violates)
    assert fitted(np.array([0.8, 0.3])) == pytest.approx([(bad + 1) / (bad + 2), 1 / (good + 2)], abs=1e-3)
