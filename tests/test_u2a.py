"""U2A's selection, gains and weights, against numbers by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from trace_ray.config import ObjectiveConfig, StorageConfig, TermConfig
from trace_ray.config.load import load_config
from trace_ray.errors import StaleRunError
from trace_ray.impact.stage import plan_shards
from trace_ray.impact.survey import survey
from trace_ray.objective.losses import npo
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.u2a import choose, gains, reweighed, round_at, write_chosen


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(locate(str(tmp_path / "run"), StorageConfig()))


def test_the_pairs_of_largest_gain_are_chosen_in_their_order(run: Run) -> None:
    table = pa.table({"row": [0, 1, 2, 3, 4], "impact": [0.1, None, 5.0, -2.0, 1.0]})
    for name, part in (("part-0.parquet", table.slice(0, 2)), ("part-1.parquet", table.slice(2))):
        (run.scored.place / name).write_parquet(part)
    run.scored.begin({})
    run.scored.publish(counts={}, seconds=0.0)
    assert choose(run, 2)["row"].to_pylist() == [2, 4]
    assert choose(run, 1024)["row"].to_pylist() == [0, 2, 3, 4]


def test_a_round_scores_the_chosen_pairs_and_no_others(run: Run) -> None:
    rows = [
        dict.fromkeys(TRIAGED_SCHEMA.names)
        | {"row": i, "pair_id": str(i), "split": "train", "category": ("INVERT", "RETAIN", "PUNISH")[i % 3]}
        for i in range(40)
    ]
    table = pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA)
    for name, part in (("part-0.parquet", table.slice(0, 17)), ("part-1.parquet", table.slice(17))):
        (run.triaged.place / name).write_parquet(part)
    run.triaged.begin({})
    run.triaged.publish(counts={"triaged": 40}, seconds=0.0)
    write_chosen(run, pa.table({"row": [3, 5, 18]}))
    first_round = round_at(run.realign.place / "rounds" / "1", run)
    assert first_round.triaged.read()["row"].to_pylist() == [3, 5, 18]
    parts, counts = (first_round.triaged.manifest()[name] for name in ("parts", "counts"))
    assert counts == {"triaged": 3, "train INVERT": 2, "train PUNISH": 1}
    config = load_config([], ["policy.text=Be brief."])
    rows_of = survey(first_round, config, parts, gold=False, retain=False).rows
    shards = list(plan_shards(first_round, rows_of, config.impact.shard_rows))
    assert sum(shard.stop - shard.start for shard in shards) == 3
    write_chosen(run, pa.table({"row": [3, 5, 18]}))  # a resume finds it
    with pytest.raises(StaleRunError):
        write_chosen(run, pa.table({"row": [3, 5]}))


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
