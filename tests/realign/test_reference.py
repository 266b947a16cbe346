"""Stored reference distributions from scored/ to the KL: the task's parts, the rows that training takes, the value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.realign import handmade
from tests.realign.test_policy_module import moved
from tests.support.small_card import Card
from trace_ray.config import ModelConfig
from trace_ray.model import kept, loading
from trace_ray.model.kept import loads, model_facts
from trace_ray.model.loading import load_model
from trace_ray.objective.batch import micro_batch
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.reference import reference_place
from trace_ray.realign.stage import _store_part
from trace_ray.runs.artifacts import Run


def test_training_on_stored_distributions_sees_the_kl_of_a_forward(tmp_path: Path) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    config = replace(config, realign=replace(config.realign, kl_reference="top_k", top_k=handmade.VOCABULARY - 1))
    run = handmade.make_run(tmp_path / "run", config, count=10)
    before, known = torch.get_num_threads(), loads()
    parts = run.scored.manifest()["parts"]
    assert len(parts) == 2
    for name in parts:
        _store_part(run, config, name, config.objective.RETAIN.prefer)
    torch.set_num_threads(before)
    facts = {"loads": known + 1, "packing": "rows", "kernels": "none", "batch_tokens": 4096}
    assert model_facts() == facts  # one load for both parts
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


def test_a_part_that_does_not_fit_the_card_is_stored_the_same_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    config = replace(config, realign=replace(config.realign, kl_reference="top_k", top_k=5))
    run = handmade.make_run(tmp_path / "run", config, count=40)
    name, cards = run.scored.manifest()["parts"][0], list[Card]()
    place = reference_place(run) / name
    _store_part(run, config, name, "chosen")
    expected = place.read_parquet()

    def on_a_small_card(settings: ModelConfig) -> Any:
        model = load_model(settings)
        cards.append(Card(model))
        cards[0].room = 30  # a row takes 26 tokens at most
        return model

    monkeypatch.setattr(kept, "_KEPT", {})
    monkeypatch.setattr(loading, "load_model", on_a_small_card)
    _store_part(run, config, name, "chosen")
    found = place.read_parquet()
    assert cards[0].refused
    assert model_facts()["batch_tokens"] < 4096
    assert found.drop_columns("top_k_log_probs") == expected.drop_columns("top_k_log_probs")
    assert found["pair_id"].to_pylist() == [row["pair_id"] for row in retained(run, name)]
    for some, others in zip(found["top_k_log_probs"], expected["top_k_log_probs"], strict=True):
        assert some.as_py() == pytest.approx(others.as_py(), rel=1e-5)


def retained(run: Run, name: str) -> list[dict[str, Any]]:
    rows = (run.scored.place / name).read_parquet(["pair_id", "category"]).to_pylist()
    return [row for row in rows if row["category"] == "RETAIN"]
