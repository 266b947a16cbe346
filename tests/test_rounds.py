"""U2A's selection, gains and weights, against numbers by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from trace_ray.config import ObjectiveConfig, TermConfig
from trace_ray.losses import npo
from trace_ray.rounds import choose, gains, reweighed


def test_the_pairs_of_largest_gain_are_chosen_in_their_order() -> None:
    table = pa.table({"row": [0, 1, 2, 3, 4], "impact": [0.1, None, 5.0, -2.0, 1.0]})
    assert choose(table, 2)["row"].to_pylist() == [2, 4]
    assert choose(table, 1024)["row"].to_pylist() == [0, 2, 3, 4]


def test_weights_grow_with_gain_and_average_one() -> None:
    weight = reweighed(np.ones(3), np.array([0.0, 1.0, 2.0]), eta=0.5)
    assert weight.mean() == pytest.approx(1.0)
    assert weight[1] / weight[0] == pytest.approx(np.exp(0.5))
    assert weight[2] > weight[1] > weight[0]


def test_a_gain_is_the_direction_times_the_gradient_at_the_current_adapter() -> None:
    objective = ObjectiveConfig(beta=0.1, PUNISH=TermConfig(loss="npo", suppress=("chosen", "rejected")))
    row = {"row": 3, "category": "PUNISH", "chosen_ids": [1], "rejected_ids": [1, 2]}
    first = row | {"chosen_ref_logp": -10.0, "rejected_ref_logp": -20.0}
    now = row | {"chosen_ref_logp": -14.0, "rejected_ref_logp": -19.0, "chosen_s": 2.0, "rejected_s": -3.0}
    (gain,) = gains(pa.Table.from_pylist([first]), pa.Table.from_pylist([now]), objective)
    # d/dt of the loss along a direction on which the log-probs change by s
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = npo(-4.0 + 2.0 * t, 0.1, scaled=False) + npo(1.0 - 3.0 * t, 0.1, scaled=False)
    assert gain == pytest.approx(torch.autograd.grad(loss, t)[0].item(), rel=1e-6)
