"""Scoring's laws: what weights, references and impacts must be to one another, on the shipped tiny policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.impact import world
from trace_ray.config import Config, ImpactConfig, ObjectiveConfig, TermConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.impact.curvature import Vector
from trace_ray.objective.batch import micro_batch
from trace_ray.objective.terms import pair_losses
from trace_ray.pairs import RESPONSE_NAMES
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.study.score import make_direction, score, weigh

PAIRS = 41
DEMO = conf_folder() / "examples" / "demo.yaml"
CLOSE: dict[str, Any] = {"rel": 1e-3, "abs": 1e-4}
"""Of sums of some 30 log-probs in float32, each about 1."""


class Scene:
    """A triaged world, its policy at theta_ref and a direction."""

    def __init__(self) -> None:
        self.triaged, self.model = world.triaged(PAIRS), world.policy()
        self.config = Config(model=world.POLICY, lora=world.LORA, impact=ImpactConfig(gold_size=9, batch_tokens=2048))
        self.direction: Vector = make_direction(self.model, self.triaged, self.config)

    def scored(self, objective: ObjectiveConfig, **impact: Any) -> pa.Table:
        """Returns the weighed rows under another objective."""
        config = replace(self.config, objective=objective, impact=replace(self.config.impact, **impact))
        return weigh(score(self.model, self.triaged, self.direction, config), config)[0]


def moved() -> Any:
    """Returns the policy with its adapter away from theta_ref."""
    model = world.policy()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    return model


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


class TestUniformWeightsAreNoImpact:
    """``--method trace objective.weights=uniform`` = ``--method no_impact``."""

    def test_the_settings(self) -> None:
        uniform = load_config([DEMO], ["objective.weights=uniform"], "trace")
        other = load_config([DEMO], [], "no_impact")
        assert replace(uniform.objective, method="no_impact") == other.objective
        assert replace(uniform, objective=other.objective) == other

    def test_the_weights(self, scene: Scene) -> None:
        objectives = {m: load_config([DEMO], [], m).objective for m in ("trace", "no_impact")}
        uniform = scene.scored(replace(objectives["trace"], weights="uniform"))
        none = scene.scored(objectives["no_impact"])
        for name in ("pair_id", "category", "weight", "prompt_ids", *(f"{r}_ids" for r in RESPONSE_NAMES)):
            assert uniform[name].equals(none[name]), name
        assert set(none["weight"].to_pylist()) == {1.0}
        assert set(scene.scored(objectives["trace"])["weight"].to_pylist()) != {1.0}


class TestTheStoredReferenceIsTheRecomputedOne:
    """log pi_ref of scored/ = that of training's policy with its adapter off, wherever the adapter has gone."""

    @pytest.mark.parametrize("shared", [True, False], ids=["prompts shared", "alone"])
    def test_log_probs(self, scene: Scene, shared: bool) -> None:
        objective = ObjectiveConfig(RETAIN=TermConfig(loss="dpo", prefer="chosen", suppress=("rejected",)))
        rows = scene.scored(objective, share_prompts=shared).to_pylist()
        model, batch = moved(), micro_batch(rows, objective)
        with torch.inference_mode(), model.disable_adapter():
            logp_S, _ = HybridPolicy(model)(batch.groups)
        with torch.inference_mode():
            elsewhere_S, _ = HybridPolicy(model)(batch.groups)
        stored = [rows[i][f"{name}_ref_logp"] for i, name in batch.place]
        found = [float(logp_S[place]) for place in batch.place.values()]
        assert len({row["category"] for row in rows}) == 3
        assert found == pytest.approx(stored, **CLOSE)
        assert [float(v) for v in elsewhere_S] != pytest.approx(stored, rel=1e-2)


class TestNpoOnTwoResponsesIsTheSum:
    """npo on both responses = npo on one + npo on the other: impacts, losses and gradients."""

    TERMS = tuple(
        TermConfig(loss="npo", prefer="", suppress=s) for s in (("chosen", "rejected"), ("chosen",), ("rejected",))
    )

    def objectives(self) -> list[ObjectiveConfig]:
        return [ObjectiveConfig(PUNISH=term) for term in self.TERMS]

    def test_impacts(self, scene: Scene) -> None:
        both, first, other = (
            [row["impact"] for row in scene.scored(objective).to_pylist() if row["category"] == "PUNISH"]
            for objective in self.objectives()
        )
        assert len(both) > 3
        assert both == pytest.approx((np.array(first) + other).tolist(), **CLOSE)

    def test_losses_and_gradients(self, scene: Scene) -> None:
        rows = [row for row in scene.scored(self.objectives()[0]).to_pylist() if row["category"] == "PUNISH"]
        made = []
        for objective in self.objectives():
            model = moved()
            batch = micro_batch(rows, objective)
            logp_S, kl_S = HybridPolicy(model)(batch.groups)
            loss_P = pair_losses(batch, logp_S, kl_S, objective).loss_P
            trained = [p for n, p in model.named_parameters() if "lora_B" in n]
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss_P.sum(), trained)])
            made.append((loss_P.detach(), gradient))
        (loss, of_both), (first, of_one), (other, of_other) = made
        assert loss.tolist() == pytest.approx((first + other).tolist(), rel=1e-5)
        assert float((of_both - of_one - of_other).norm() / of_both.norm()) < 1e-4
