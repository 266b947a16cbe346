"""Stored reference distributions from scored/ to the KL: the task's parts, the rows that training takes, the value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.model import families
from tests.realign import handmade
from tests.realign.test_policy_module import moved
from tests.support.small_card import Card
from trace_ray.config import Config, ModelConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.model import kept, loading
from trace_ray.model.kept import loads, model_facts
from trace_ray.model.loading import load_model
from trace_ray.model.targets import target_linears
from trace_ray.objective.batch import micro_batch
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.reference import HIDDEN_SCHEMA, hidden_table, reference_place
from trace_ray.realign.stage import _store_part
from trace_ray.runs.artifacts import Run

DEMO = conf_folder() / "examples" / "demo.yaml"


def stored_rows(folder: Path, prefer: str = "chosen", **realign: Any) -> tuple[Config, list[dict[str, Any]]]:
    """Rows of RETAIN with what stage 3 has stored of the reference for them, part by part."""
    config = handmade.tiny_config(handmade.tiny_model(folder / "model", "gemma2"), **realign)
    run = handmade.make_run(folder / "run", config, count=10)
    before = torch.get_num_threads()
    parts = run.scored.manifest()["parts"]
    assert len(parts) == 2
    for name in parts:
        _store_part(run, config, name, prefer)
    torch.set_num_threads(before)
    rows = TrainingRows.read(run.scored, config.objective, reference_place(run))
    every = rows.take(np.arange(len(rows)))
    held = [row for row in every if "reference_hidden" in row or "top_k_ids" in row]
    assert {row["category"] for row in held} == {"RETAIN"}
    assert len(held) == 3
    return config, held


def test_training_on_stored_hidden_states_is_training_on_a_forward(tmp_path: Path) -> None:
    """A head with a soft cap; values and gradients."""
    config, retained = stored_rows(tmp_path, kl_reference="hidden")
    policy = HybridPolicy(moved(load_model(config.model), config.lora))
    trained = [p for p in policy.parameters() if p.requires_grad]
    found = []
    for forward in (False, True):
        batch = micro_batch(retained, config.objective, forward_reference=forward)
        assert [group.reference is not None for group in batch.groups] == [forward]
        assert [group.hidden_KD is not None for group in batch.groups] == [not forward]
        _, kl_S = policy(batch.groups)
        found.append((kl_S, torch.autograd.grad(kl_S.sum(), trained)))
    (stored_S, stored), (forward_S, expected) = found
    assert (forward_S > 1e-3).all()
    torch.testing.assert_close(stored_S, forward_S, rtol=1e-6, atol=1e-6)
    for mine, other in zip(stored, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_lie_in_the_models_dtype_and_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    config = handmade.tiny_config(handmade.tiny_model(tmp_path / "model"))
    model = load_model(config.model).to(dtype)
    rows = handmade.scored_rows(model, 4, ("RETAIN",))
    table = hidden_table(model, rows, "chosen", 40)
    assert table.schema == HIDDEN_SCHEMA
    stored = {row["pair_id"]: row for row in table.to_pylist()}
    for row in rows:
        told = stored[row["pair_id"]]
        tokens = len(row["chosen_ids"])
        assert len(told["reference_hidden"]) == tokens * 24 * dtype.itemsize
        (group,) = micro_batch(
            [row | told | {"reference_hidden": np.frombuffer(told["reference_hidden"], np.uint8)}],
            config.objective,
            forward_reference=False,
        ).groups
        with torch.no_grad():
            out = model.model(torch.tensor([row["prompt_ids"] + row["chosen_ids"]])).last_hidden_state[0]
        assert group.hidden_KD is not None
        assert group.hidden_KD.dtype == dtype
        close = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(group.hidden_KD, out[len(row["prompt_ids"]) - 1 : -1], rtol=close, atol=close)


def test_a_head_that_is_trained_and_a_kl_elsewhere_are_refused_at_load() -> None:
    hidden = "realign.kl_reference=hidden"
    load_config([DEMO], [hidden])
    with pytest.raises(
        UserError, match=r"realign\.kl_reference: hidden: .* the head, which tune=full trains: use frozen_copy"
    ):
        load_config([DEMO], [hidden, "realign.tune=full", "impact.parameters=full"])
    with pytest.raises(UserError, match=r"kl_reference=hidden serves a kl on RETAIN only"):
        load_config([DEMO], [hidden, "objective.INVERT={loss: kl, prefer: rejected, suppress: []}"])
    with pytest.raises(UserError, match="an adapter there is not scored"):
        target_linears(families.make("llama"), ["lm_head"])


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
