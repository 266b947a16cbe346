"""Stored reference distributions from scored/ to the KL: the task's parts, the rows that training takes, the value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.realign import handmade
from tests.realign.test_policy_module import moved
from trace_ray.model.kept import model_facts
from trace_ray.model.loading import load_model
from trace_ray.objective.batch import micro_batch
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.reference import reference_place
from trace_ray.realign.stage import _store_part


def test_training_on_stored_distributions_sees_the_kl_of_a_forward(tmp_path: Path) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    config = replace(config, realign=replace(config.realign, kl_reference="top_k", top_k=handmade.VOCABULARY - 1))
    run = handmade.make_run(tmp_path / "run", config, count=10)
    before = torch.get_num_threads()
    parts = run.scored.manifest()["parts"]
    assert len(parts) == 2
    for name in parts:
        _store_part(run, config, name, config.objective.RETAIN.prefer)
    torch.set_num_threads(before)
    assert model_facts() == {"loads": 1, "packing": "rows", "kernels": "none"}  # one for both parts
    rows = TrainingRows.read(run.scored, config.objective, reference_place(run))
    every = rows.take(np.arange(len(rows)))
    assert {row["category"] for row in every if "top_k_ids" in row} == {"RETAIN"}
    policy = HybridPolicy(moved(load_model(config.model), config.lora))
    retained = [row for row in every if row["category"] == "RETAIN"]
    assert len(retained) == 3
    _, stored = policy(micro_batch(retained, config.objective, forward_reference=False).groups)
    _, forward = policy(micro_batch(retained, config.objective).groups)
    assert (forward > 1e-3).all()
    torch.testing.assert_close(stored, forward, rtol=1e-3, atol=1e-5)
