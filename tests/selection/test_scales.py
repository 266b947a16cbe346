"""Scales of the chosen adapter: what they are to the model, which is kept, and that a run that goes on keeps the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from trace_ray.config import SelectConfig
from trace_ray.config.load import load_config
from trace_ray.errors import UserError
from trace_ray.model.loading import load_adapter, load_model
from trace_ray.realign.candidates import candidate_name, candidate_place, candidates, write_candidate, write_scaled
from trace_ray.realign.weights import trainable
from trace_ray.runs.artifacts import Run
from trace_ray.runs.validations import Validation, validations, write_validation
from trace_ray.selection.choose import choose
from trace_ray.selection.measure import waiting
from trace_ray.selection.scales import Kept, keep, scaled_run

SELECT = SelectConfig(steps=10, max_drift=0.5, scales=(0.3, 0.7, 1.0))


def figures(step: int, share: float, drift: float) -> Validation:
    tpa = {"all": share, "INVERT": share}
    return Validation(step=step, adapter="x", tpa=tpa, prompts={"all": 9}, drift=drift, seconds=1.0, tokens=1)


def trained(run: Run, adapted: Any, measured: Mapping[int, tuple[float, float]]) -> None:
    """Candidates and what was measured of them: {step: (share, drift)}, 0 the model before training."""
    model, _ = adapted
    torch.manual_seed(3)
    for step, (share, drift) in measured.items():
        if step:
            weights = {name: torch.randn_like(parameter) for name, parameter in trainable(model)}
            write_candidate(run, model, weights, step)
        write_validation(run, candidate_name(step), figures(step, share, drift))


def kept(
    run: Run, by_percent: Mapping[int, tuple[float, float]], select: SelectConfig = SELECT
) -> tuple[Kept, list[int]]:
    """What is kept where scales measure so; and which were measured."""
    asked: list[int] = []

    def measure(scaled: Run) -> None:
        for percent in waiting(scaled):
            asked.append(percent)
            found = figures(percent, *by_percent[percent])
            write_validation(
                scaled, candidate_name(percent), Validation(**vars(found) | {"adapter": candidates(scaled)[percent]})
            )

    return keep(run, select, choose(validations(run), select), measure), asked


def test_a_scaled_adapter_is_a_part_of_the_change(run: Run, adapted: Any) -> None:
    """Against PEFT's own scaling: the same logits, at every position."""
    _, config = adapted
    trained(run, adapted, {10: (90.0, 0.1)})
    whole, ids = candidate_place(run, 10) / "adapter", torch.tensor([[1, 2, 3, 4, 5]])
    write_scaled(scaled_run(run), whole, 30)
    part = load_adapter(
        load_model(config.model), candidate_place(scaled_run(run), 30).path + "/adapter", trainable=False
    )
    full = load_adapter(load_model(config.model), whole.path, trainable=False)
    moved = full(ids).logits
    for module in full.modules():
        if hasattr(module, "lora_B"):
            module.scaling["default"] *= 0.3
    with torch.no_grad():
        assert torch.allclose(part.eval()(ids).logits, full.eval()(ids).logits, atol=1e-5)
        assert not torch.allclose(moved, full(ids).logits, atol=1e-2)


def test_the_best_scale_within_the_budgets_is_kept_of_equals_the_smallest(run: Run, adapted: Any) -> None:
    trained(run, adapted, {0: (40.0, 0.0), 10: (80.0, 0.4), 20: (90.0, 0.9)})
    found, asked = kept(run, {30: (85.0, 0.1), 70: (85.0, 0.2)})
    assert (found.step, found.percent, asked) == (10, 30, [30, 70])
    assert found.facts() == {"scale": 0.3, "dev_tpa_by_scale": {"0.3": 85.0, "0.7": 85.0, "1": 80.0}}
    folder = run.realign.place / found.folder / "adapter" / "adapter_model.safetensors"
    assert folder.exists()
    again, asked = kept(run, {})
    assert (again, asked) == (found, []), "a run that goes on measures nothing twice"


def test_a_scale_that_is_no_better_leaves_the_adapter_whole(run: Run, adapted: Any) -> None:
    trained(run, adapted, {0: (40.0, 0.0), 10: (80.0, 0.4)})
    found, _ = kept(run, {30: (79.0, 0.1), 70: (95.0, 0.6)})
    assert (found.step, found.percent) == (10, 100)
    assert found.folder == "selection/candidates/step-000010"


def test_where_all_that_gain_go_too_far_a_part_of_the_best_may_be_kept(run: Run, adapted: Any) -> None:
    trained(run, adapted, {0: (40.0, 0.0), 10: (90.0, 0.8), 20: (90.0, 1.5), 30: (60.0, 0.9)})
    found, _ = kept(run, {30: (55.0, 0.2), 70: (85.0, 0.55)})
    assert (found.step, found.percent) == (10, 30)


def test_where_no_scale_is_better_either_the_model_stays_as_it_was(run: Run, adapted: Any) -> None:
    trained(run, adapted, {0: (40.0, 0.0), 10: (90.0, 0.8)})
    found, _ = kept(run, {30: (39.0, 0.2), 70: (85.0, 0.55)})
    assert (found.step, found.folder) == (0, "selection/candidates/step-000000")


@pytest.mark.parametrize(("scales", "measured"), [((), {0: (40.0, 0.0), 10: (80.0, 0.1)}), ((0.5,), {0: (40.0, 0.0)})])
def test_without_scales_or_candidates_nothing_is_tried(
    run: Run, adapted: Any, scales: tuple[float, ...], measured: dict[int, tuple[float, float]]
) -> None:
    trained(run, adapted, measured)
    found, asked = kept(run, {}, SelectConfig(steps=10, scales=scales))
    assert (asked, found.facts(), found.step) == ([], {}, max(measured))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("realign.select={steps: 10, scales: [0.5, 1.5]}", "realign.select.scales: 1.5: give scales in (0, 1]"),
        ("realign.select={steps: 10, scales: [0.333]}", "realign.select.scales: 0.333: give scales"),
        ("realign.select={scales: [0.5]}", "realign.select.scales: [0.5]: they are tried at a selection's end"),
    ],
)
def test_scales_are_parts_and_of_a_selection(more: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config([], ["policy.text=x", "model.path=m", more])
    assert str(refused.value).startswith(said)
