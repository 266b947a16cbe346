"""Memory of a card by the model's shape: what cannot fit is refused in one line, and what is shipped fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.model import families
from trace_ray.config import Config, ModelConfig
from trace_ray.config.gpus import with_gpus
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.model.fit import REFERENCE, SHARE, scoring_bytes, shape_of, token_bytes
from trace_ray.plan.cards import GIB, CardUse, card_uses, cards_of, too_large
from trace_ray.plan.plan import Plan
from trace_ray.plan.show import plan_tables
from trace_ray.runs.artifacts import STAGES

H100, L40S = 79.6 * GIB, 45.0 * GIB
LLAMA = ("models/llama-3.1-8b", "policies/brevity")


def on_gpus(files: tuple[str, ...], *overrides: str) -> Config:
    return with_gpus(load_config(list(files), list(overrides)), lambda labels: True, STAGES)


SHIPPED: list[tuple[tuple[str, ...], float]] = [
    ((f"examples/{file.stem}",), L40S if "kuberay" in file.stem else H100)
    for file in sorted((conf_folder() / "examples").glob("*.yaml"))
    if "gpu" in file.stem or "h100" in file.stem
]
SHIPPED += [((*LLAMA, f"zero/{file.stem}"), H100) for file in sorted((conf_folder() / "zero").glob("*.yaml"))]


@pytest.mark.parametrize(("files", "card"), SHIPPED, ids=lambda value: value[-1] if isinstance(value, tuple) else "")
def test_every_shipped_gpu_configuration_fits_its_card_with_an_8b_model(files: tuple[str, ...], card: float) -> None:
    uses = card_uses(on_gpus(files), REFERENCE, card, STAGES)
    assert [use.stage for use in uses] == ["impact", "realign"]
    assert list(too_large(uses)) == []
    assert all(use.needed <= SHARE * use.card + use.a_token * use.longest for use in uses)


def test_the_shipped_ones_are_found() -> None:
    assert len(SHIPPED) == 7


def use_of(stage: str, *overrides: str, card: float = H100) -> CardUse:
    return next(use for use in card_uses(on_gpus(LLAMA, *overrides), REFERENCE, card, STAGES) if use.stage == stage)


def test_worked_by_hand_for_8b() -> None:
    """16.06 GB of weights; 3.1 MiB a token of scoring; checkpointed 32 inputs of 8 KiB and one layer of 4.3 / 32 MiB."""
    scoring = use_of("impact", "impact.batch_tokens=8192")
    assert scoring.fixed == pytest.approx(16.06e9 + 2.5 * GIB)
    assert scoring.a_token == pytest.approx(3.1 * 2**20)
    assert scoring.needed / GIB == pytest.approx(17.457 + 24.8, abs=0.01)
    training = use_of("realign", "realign.gradient_checkpointing=true", "realign.micro_tokens=8192")
    assert training.a_token == pytest.approx((0.25 + 4.3 / 32) * 2**20)
    between = use_of("realign", "realign.gradient_checkpointing=selective", "realign.micro_tokens=8192")
    assert between.a_token == pytest.approx((7 * 0.25 + 4.3 / 32) * 2**20)  # six outputs of the inputs' size more
    scored = use_of("impact", "impact.gradient_checkpointing=selective", "impact.batch_tokens=8192")
    assert scored.a_token == pytest.approx((7 * 0.25 + 3.1 / 32) * 2**20)
    full = use_of(
        "realign",
        "realign.tune=full",
        "realign.zero_stage=3",
        "realign.workers=8",
        "impact.parameters=full",
        "realign.kl_reference=frozen_copy",
    )
    assert full.fixed == pytest.approx((2 * 16.06e9 + 4 * 8.03e9 + 12 * 8.03e9) / 8 + 2e9 + 2 * GIB)


@pytest.mark.parametrize(
    ("overrides", "scoring", "training"),
    [
        ([], 3.1, 4.3),
        (["model.packing=flat", "model.kernels=fused", "realign.zero_stage=2"], 3.1, 4.3),
        (["model.packing=rows"], 4.3, 6.3),
        (["model.kernels=torch"], 4.3, 6.3),
        (["realign.zero_stage=3", "realign.workers=2"], 3.1, 6.3),
        (["model.dtype=float32"], 2 * 4.3, 2 * 6.3),
    ],
)
def test_a_token_takes_what_it_takes_on_the_path_that_will_run(
    overrides: list[str], scoring: float, training: float
) -> None:
    config = on_gpus(LLAMA, *overrides)
    shape = replace(REFERENCE, size=4 if config.model.dtype == "float32" else 2)
    found = [use.a_token / 2**20 for use in card_uses(config, shape, H100, STAGES)]
    assert found == pytest.approx([scoring, training])
    padded = card_uses(config, shape, H100, STAGES, may_run_flat=False)
    assert [use.a_token / 2**20 for use in padded] == pytest.approx([4.3 * shape.size / 2, 6.3 * shape.size / 2])


@pytest.mark.parametrize(("attention", "expected"), [("sdpa", 3.1), ("eager", 4.3)])
def test_a_model_that_runs_padded_rows_is_planned_with_them(attention: str, expected: float, tmp_path: Path) -> None:
    made = families.make("llama")
    config = on_gpus(LLAMA, f"model.path={families.saved(made, tmp_path)}", f"model.attention={attention}")
    (use,) = cards_of(config, ["impact"], H100)
    shape = shape_of(made.config, made.num_parameters(), "bfloat16")
    part = shape.layers * shape.layer_numbers / (REFERENCE.layers * REFERENCE.layer_numbers)
    assert use.a_token == pytest.approx(expected * 2**20 * part)


def test_full_parameter_scoring_of_8b_fits_a_card_of_80_gb() -> None:
    use = use_of("impact", "impact.parameters=full", "realign.tune=full", "realign.kl_reference=top_k")
    assert use.fixed == scoring_bytes(REFERENCE, full=True)
    assert list(too_large([use])) == []


@pytest.mark.parametrize(
    ("stage", "overrides", "card", "said"),
    [
        (
            "impact",
            ["impact.batch_tokens=65536"],
            H100,
            "impact.batch_tokens: 65536: about 216 GiB of a card's 80: give at most 16384, or auto",
        ),
        (
            "realign",
            ["realign.micro_tokens=32768"],
            H100,
            "realign.micro_tokens: 32768: about 155 GiB of a card's 80: give at most 11776, or auto",
        ),
        (
            "realign",
            ["realign.tune=full", "realign.kl_reference=top_k", "impact.parameters=full"],
            H100,
            (
                "realign.micro_tokens: auto: a single row of 1024 tokens takes about 141 GiB of a card's 80: use "
                "realign.gradient_checkpointing=true, a shorter model.max_length, realign.zero_stage=3 on more workers or a "
                "larger card"
            ),
        ),
        (
            "impact",
            ["impact.num_gpus=0.25"],
            H100,
            (
                "impact.batch_tokens: auto: a single row of 1024 tokens takes about 21 GiB of a card's 20: use "
                "impact.gradient_checkpointing=true, a shorter model.max_length or a larger card"
            ),
        ),
    ],
)
def test_what_cannot_fit_is_one_line(stage: str, overrides: list[str], card: float, said: str) -> None:
    assert [str(problem) for problem in too_large([use_of(stage, *overrides, card=card)])] == [said]


def test_on_cpus_nothing_is_held_against_a_card() -> None:
    config = with_gpus(load_config(list(LLAMA)), lambda labels: False, STAGES)
    assert card_uses(config, REFERENCE, H100, STAGES) == []
    assert card_uses(on_gpus(LLAMA), REFERENCE, H100, ["triage"]) == []


def test_a_token_s_bytes_go_by_the_layers_and_the_weights_dtype() -> None:
    twice = replace(REFERENCE, layers=64)
    for how in (
        {"checkpointed": checkpointed, "lean": lean} for checkpointed in (False, True) for lean in (False, True)
    ):
        one, two = (token_bytes(shape, "training", **how) for shape in (REFERENCE, twice))
        assert one < two <= 2 * one
        assert token_bytes(replace(REFERENCE, size=4), "training", **how) == pytest.approx(2 * one)
    made = families.make("llama")
    shape = shape_of(made.config, made.num_parameters(), "float32")
    assert (shape.layers, shape.width) == (made.config.num_hidden_layers, made.config.hidden_size)
    assert (shape.inner, shape.size) == (made.config.intermediate_size, 4)


def test_the_plan_shows_both_stages() -> None:
    uses = card_uses(on_gpus(LLAMA), REFERENCE, H100, STAGES)
    (table,) = plan_tables(Plan([], None, None, [], 0, uses), Config(model=ModelConfig()))
    assert [str(cell) for cell in table.columns[0].cells] == ["impact", "realign"]
    assert next(str(cell) for cell in table.columns[1].cells) == "16,384 (auto)"
    assert Plan([], None, None, [], 0, uses).as_json()["cards"][0]["needed"] <= SHARE * H100
