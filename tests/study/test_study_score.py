"""The study's direction in one process: stage 2's, and the curvature that a variant asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.impact import world
from trace_ray.config import Config, ImpactConfig
from trace_ray.errors import UserError
from trace_ray.impact.curvature import gauss_newton_product
from trace_ray.impact.gold import PAIR_COLUMNS, choose_retain, tokenize_gold
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.study.score import make_direction


def test_the_variant_solves_for_its_curvature() -> None:
    """(G + gamma I) v = g_J, where the plain direction times gamma is g_J."""
    triaged, model = world.triaged(41), world.policy()
    impact = ImpactConfig(gold_size=6, gamma=0.05, curvature_pairs=3, cg_tolerance=1e-4)
    config = Config(model=world.POLICY, lora=world.LORA, impact=impact)
    plain = make_direction(model, triaged, config)
    bent = make_direction(model, triaged, replace(config, impact=replace(impact, curvature="gauss_newton")))
    chosen = choose_retain([triaged.select(PAIR_COLUMNS)], 3, impact.seed)
    retain = tokenize_gold(chosen, load_chat_tokenizer(world.POLICY)).to_pylist()
    image = gauss_newton_product(model, retain, bent, batch_tokens=512)
    for name, value in plain.items():
        found = image[name] / 3 + impact.gamma * bent[name]
        torch.testing.assert_close(found, impact.gamma * value, rtol=1e-2, atol=1e-3 * float(value.abs().max()))
    few = replace(impact, curvature="gauss_newton", gamma=1e-6, cg_iterations=1, cg_tolerance=1e-9)
    with pytest.raises(UserError, match=r"impact\.cg_iterations: 1, residual"):
        make_direction(model, triaged, replace(config, impact=few))
