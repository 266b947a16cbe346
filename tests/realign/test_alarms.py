"""Each alarm of a training is provoked, by figures or by a training; what is displaced or collapsed has not converged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests.realign import handmade
from trace_ray.config import Config, ObjectiveConfig, RealignConfig, settings
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import CardMemoryError
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.pairs import SCORED_SCHEMA
from trace_ray.realign.data import TrainingRows
from trace_ray.realign.engine import PlainEngine
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.realign.training import Training
from trace_ray.runs.alarms import ALARMS, STEPS, UNWEIGHED, alarms, raised, sick, unweighed, wrong_reference

POLICY = ["policy.text=Be brief."]


def objective(*settings: str) -> ObjectiveConfig:
    return load_config([conf_folder() / "methods" / "trace.yaml"], [*POLICY, *settings]).objective


TRACE, REALIGN = objective(), RealignConfig()


def rows(count: int = STEPS, **figures: float) -> list[dict[str, Any]]:
    """``count`` steps with the same figures; INVERT_raised is its reward, and so on."""
    names = {"raised": "reward_raised", "lowered": "reward_lowered", "loss": "loss"}
    told = {"steps": 200, "tokens": 100, "grad_norm": 0.5, "INVERT/pairs": 2}
    own = {f"{key.split('_')[0]}/{names[key.split('_')[1]]}": value for key, value in figures.items()}
    return [{"step": step} | told | own for step in range(1, count + 1)]


def test_a_preferred_response_that_sinks_is_displaced() -> None:
    beta = TRACE.beta
    assert list(alarms(rows(INVERT_raised=-10.1 * beta), TRACE, REALIGN)) == ["INVERT displaced"]
    assert not alarms(rows(INVERT_raised=-9.9 * beta), TRACE, REALIGN)
    assert not alarms(rows(STEPS - 1, INVERT_raised=-99 * beta), TRACE, REALIGN), "a few steps say nothing"
    recovered = [*rows(30, INVERT_raised=-20 * beta), *rows(INVERT_raised=1.0)]
    assert not alarms(recovered, TRACE, REALIGN)
    own = objective("objective.INVERT={loss: dpo, prefer: rejected, suppress: [chosen], beta: 2.0}")
    assert alarms(rows(INVERT_raised=-20.2), own, REALIGN)
    assert not alarms(rows(INVERT_raised=-19.8), own, REALIGN)


def test_how_far_it_may_sink_is_a_setting() -> None:
    beta = TRACE.beta
    three = RealignConfig(max_displacement=3.0)
    (said,) = alarms(rows(INVERT_raised=-3.1 * beta), TRACE, three).values()
    assert "sunk 3.1 nats below the reference" in said
    assert not alarms(rows(INVERT_raised=-2.9 * beta), TRACE, three)
    assert not alarms(rows(INVERT_raised=-999 * beta), TRACE, RealignConfig(max_displacement=0.0))
    same = settings(RealignConfig(), "realign")
    assert same == settings(RealignConfig(max_displacement=10.0), "realign") != settings(three, "realign")
    assert "realign.max_displacement" not in same, "runs begun before it came stay valid"


def test_a_category_that_is_only_raised_is_watched_too() -> None:
    sft = objective("objective.INVERT={loss: sft, prefer: rejected, suppress: []}")
    assert list(alarms(rows(INVERT_raised=-10.1 * sft.beta), sft, REALIGN)) == ["INVERT displaced"]
    assert not alarms(rows(INVERT_raised=-9.9 * sft.beta), sft, REALIGN)


def clipped(norms: list[float], steps: int, **realign: Any) -> dict[str, str]:
    """The alarms of a training of ``steps`` whose first have these norms."""
    asked = RealignConfig(**({"max_grad_norm": 1.0, "warmup_steps": 0} | realign))
    return alarms([{"step": i, "steps": steps, "grad_norm": norm} for i, norm in enumerate(norms, 1)], TRACE, asked)


def test_every_step_clipped_is_a_note_with_how_far_above() -> None:
    assert not clipped([2.0] * 19, 200)
    (said,) = clipped([9.0, *[2.0] * 10, *[4.0] * 9, 7.5], 200).values()
    assert "each of the last 20 steps was clipped, to realign.max_grad_norm=1 from gradients of norm 2 to 7.5" in said
    assert "(median 3)" in said
    assert "raise the limit above 3" in said.rpartition("; ")[2]
    made = [{"step": i, "steps": 200, "grad_norm": 2.0} for i in range(1, 31)]
    assert alarms(made, TRACE, RealignConfig(warmup_steps=0))
    assert not sick(made, TRACE, RealignConfig(warmup_steps=0)), "no reason to go on where the gradient has vanished"


def test_one_step_within_the_limit_no_limit_and_the_warm_up_are_no_clipping() -> None:
    assert not clipped([*[2.0] * 10, 1.0, *[2.0] * 9], 200), "the limit itself is not above it"
    assert not clipped([2.0] * 30, 200, max_grad_norm=0.0)
    assert not clipped([2.0] * 30, 200, max_grad_norm=2.0)
    assert not clipped([2.0] * 39, 200, warmup_steps=100), "a tenth of the run is warm-up"
    assert list(clipped([2.0] * 40, 200, warmup_steps=100)) == ["clipped"]


def test_a_short_training_is_asked_for_all_its_steps_but_no_fewer_than_ten() -> None:
    assert not clipped([2.0] * 14, 15)
    assert "each of the last 15 steps" in clipped([2.0] * 15, 15)["clipped"]
    assert clipped([2.0] * 10, 10)
    assert not clipped([2.0] * 9, 9)


def test_what_is_suppressed_without_a_target_collapses() -> None:
    beta = TRACE.beta
    assert list(alarms(rows(PUNISH_lowered=-51 * beta), TRACE, REALIGN)) == ["PUNISH collapsed"]
    assert not alarms(rows(PUNISH_lowered=-49 * beta), TRACE, REALIGN)
    assert not alarms(rows(INVERT_lowered=-500 * beta), TRACE, REALIGN), "a relation keeps its other side"


def test_anchors_that_lose_the_reference_are_adrift() -> None:
    (said,) = alarms(rows(RETAIN_loss=1.1), TRACE, REALIGN).items()
    assert (said[0], "collapsed; give objective.alpha_kl=0.2, lower" in said[1]) == ("RETAIN adrift", True)
    assert (
        "give objective.kl_target=0.4,"
        in alarms(rows(RETAIN_loss=1.1), objective("objective.kl_target=0.8"), REALIGN)[said[0]]
    )
    assert not alarms(rows(RETAIN_loss=0.9), TRACE, REALIGN)
    unanchored = objective("objective.RETAIN={loss: dpo, prefer: chosen, suppress: [rejected]}")
    assert not alarms(rows(RETAIN_loss=1.1), unanchored, REALIGN), "a loss that is no KL"


def test_steps_without_a_category_do_not_hide_it() -> None:
    mixed = [row for sunk in rows(INVERT_raised=-9.0) for row in (sunk, {"step": 0, "steps": 200, "grad_norm": 0.5})]
    assert list(alarms(mixed, TRACE, REALIGN)) == ["INVERT displaced"]


@pytest.mark.parametrize(("nats", "dtype", "wrong"), [(0.05, "float32", False), (3.0, "float32", True)])
def test_the_first_step_shows_a_reference_that_is_another_model(nats: float, dtype: str, wrong: bool) -> None:
    """25 tokens a sequence: noise of 0.01 nats a token is 0.2 in all, in bfloat16 ten times that."""
    figures = rows(1, INVERT_raised=nats * TRACE.beta, INVERT_lowered=0.0, INVERT_loss=0.65)[0]
    assert bool(wrong_reference(figures, TRACE, dtype)) == wrong
    assert not wrong_reference(figures | {"INVERT/reward_raised": 1.9 * TRACE.beta}, TRACE, "bfloat16")
    assert wrong_reference(figures | {"INVERT/reward_raised": math.nan}, TRACE, dtype)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.tiny_model(tmp_path_factory.mktemp("model"))


def training(config: Config) -> Training:
    model = load_model(config.model)
    scored = handmade.scored_rows(model, 12)
    policy = HybridPolicy(new_adapter(model, config.lora, 0))
    table = pa.Table.from_pylist(scored, schema=SCORED_SCHEMA)
    rows = TrainingRows.of(table, config.objective)
    return Training(rows, config.objective, config.realign, lambda steps: PlainEngine(policy, config.realign, steps))


def test_a_step_that_does_not_fit_the_card_is_one_line_and_not_half_a_step(model_folder: Path) -> None:
    config = handmade.tiny_config(model_folder, objective(), micro_tokens=512)
    made = training(config)
    made.train_step()

    def full(_module: Any, _arguments: Any, _named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    made.engine.policy.model.get_base_model().get_decoder().register_forward_pre_hook(full, with_kwargs=True)  # type: ignore[attr-defined]
    with pytest.raises(CardMemoryError) as caught:
        made.run(lambda: None)
    remedy = "a step does not fit the card: give fewer, or realign.gradient_checkpointing=true"
    assert str(caught.value) == f"realign.micro_tokens: 512: {remedy}"
    assert made.step == 1


DPO_THAT_LOWERS_WHAT_IT_PREFERS = [
    "objective.INVERT=[{loss: dpo}, {loss: npo, suppress: [rejected], weight: 30}]",
    "objective.PUNISH={loss: skip, prefer: '', suppress: []}",
    "objective.RETAIN={loss: skip, prefer: '', suppress: []}",
]


def test_a_training_that_displaces_says_so_and_does_not_stop_as_converged(
    model_folder: Path,
) -> None:
    """Its gradient is below epsilon throughout, so that it would stop at once. So small a model cannot sink by 10 nats."""
    asked = {
        "max_displacement": 1.5,
        "epsilon": 1e9,
        "epsilon_steps": 1,
        "epochs": 200,
        "learning_rate": 3e-2,
        "max_steps": 60,
    }
    config = handmade.tiny_config(model_folder, objective(*DPO_THAT_LOWERS_WHAT_IT_PREFERS), **asked)
    made = training(config)
    made.train_step()
    assert made.over, "a healthy one ends here"
    while not sick(made.metrics, config.objective, config.realign) and made.step < 60:
        made.train_step()
    assert list(alarms(made.metrics, config.objective, config.realign)) == ["INVERT displaced"]
    assert not made.over
    while made.step < 60:
        made.train_step()
    assert made.over, "the plan's end is an end"


def test_a_category_without_weight_is_named() -> None:
    scored, trained = {"INVERT": 4, "PUNISH": 3, "RETAIN": 9, "untrained": 7}, {"INVERT": 2, "RETAIN": 9}
    assert unweighed(scored, trained, TRACE) == ["PUNISH"]
    assert unweighed(scored, {"INVERT": 2, "PUNISH": 1, "RETAIN": 9}, TRACE) == []
    skipped = objective("objective.PUNISH={loss: skip, prefer: '', suppress: []}")
    assert unweighed(scored, trained, skipped) == [], "nobody asked for it"
    made = [rows(1)[0] | {UNWEIGHED: ["PUNISH"]}, *rows(3)]
    (name, text), *others = alarms(made, TRACE, REALIGN).items()
    assert (name, others) == ("PUNISH unweighed", [])
    assert text.startswith("PUNISH: no pair has a weight above 0")
    assert not sick(made, TRACE, REALIGN), "it says nothing of the end"


def test_what_was_raised_is_read_back_from_the_figures() -> None:
    assert raised([{"step": 1}, {"step": 7, ALARMS: {"INVERT displaced": "said"}}]) == [(7, "INVERT displaced", "said")]
