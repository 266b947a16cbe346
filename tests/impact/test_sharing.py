"""Families whose states run along a row: no response sees another, in scores and in the direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.impact import tiny
from tests.model import families
from trace_ray.config import LoraSettings
from trace_ray.errors import UserError
from trace_ray.impact.direction import gold_gradient
from trace_ray.impact.pair_scores import PairRequest, score_pairs
from trace_ray.impact.scores import Scorer
from trace_ray.model import sharing
from trace_ray.model.known import refuse_unknown_tokens
from trace_ray.model.loading import new_adapter
from trace_ray.model.sharing import longest_shared_row, may_share_prompts, sharing_pays
from trace_ray.objective.losses import dpo

APART = ("bamba", "qwen3.5", "lfm2", "mpt", "bloom", "falcon", "falcon_h1")
SHARED = ("llama", "gpt2", "gemma3 for images", "gemma4 for images", "minicpm3", "deepseek v3")
BETA, TOKENS = 0.3, 4096
PROMPT = list(range(20, 60))
PAIRS = [([7, 9, 11], [3, 8, 6, 12, 5]), ([33, 4], [15, 16, 17])]


def adapted(family: str, *, moved: bool) -> Any:
    model = new_adapter(families.make(family), LoraSettings(r=4, alpha=8, target_modules=("all-linear",)), 0).eval()
    if moved:
        generator = torch.Generator().manual_seed(5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1, generator=generator)
    return model


@pytest.mark.parametrize("family", [*APART, *SHARED])
def test_families_are_known_by_trial(family: str) -> None:
    assert may_share_prompts(families.make(family)) == (family in SHARED)


@pytest.mark.parametrize("family", [*APART, *SHARED])
def test_pairs_get_what_autograd_gives_each_response_alone(family: str) -> None:
    model = adapted(family, moved=True)
    direction = tiny.random_direction(model)
    coefficients = {"chosen": 0.7, "rejected": -1.9}
    own = [{n: tiny.log_prob(model, PROMPT, y) for n, y in zip(coefficients, pair, strict=True)} for pair in PAIRS]
    impacts = [sum(c * tiny.derivative(model, found[n], direction) for n, c in coefficients.items()) for found in own]
    model.requires_grad_(False)
    requests = [PairRequest(PROMPT, dict(zip(coefficients, pair, strict=True)), coefficients) for pair in PAIRS]
    found = score_pairs(requests, Scorer(model, direction), TOKENS, share_prompts=True)
    assert [len(score.s) for score in found] == [0 if family in SHARED else 2] * len(PAIRS)  # whether rows were shared
    for scored, expected in zip(found, own, strict=True):
        assert scored.logp == pytest.approx({n: float(v) for n, v in expected.items()}, abs=1e-3)
    assert tiny.relative_error([score.impact or 0.0 for score in found], impacts) <= 1e-3


@pytest.mark.parametrize("family", ["bamba", "mpt", "llama"])
def test_the_gold_direction_is_autograds(family: str) -> None:
    model = adapted(family, moved=False)
    rows = [{"prompt_ids": PROMPT, "preferred_ids": a, "dispreferred_ids": b} for a, b in PAIRS]
    ratios = [tiny.log_prob(model, PROMPT, a) - tiny.log_prob(model, PROMPT, b) for a, b in PAIRS]
    loss = sum(dpo((ratio - ratio.detach())[None], BETA).sum() for ratio in ratios)
    parameters = tiny.trainable(model)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])  # type: ignore[arg-type]
    found = gold_gradient(model, rows, beta=BETA, batch_tokens=TOKENS)
    difference = torch.cat([found[name].flatten() for name in parameters]) - expected
    assert difference.norm() <= 1e-3 * expected.norm()


def test_a_pair_is_run_apart_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("llama", moved=False)
    rows = [{"prompt_ids": PROMPT, "preferred_ids": a, "dispreferred_ids": b} for a, b in PAIRS]
    seen: list[int] = []
    decoder = model.get_base_model().get_decoder()
    decoder.register_forward_pre_hook(lambda _m, _a, kw: seen.append(kw["input_ids"].shape[0]), with_kwargs=True)
    for share, expected in ((True, len(PAIRS)), (False, 2 * len(PAIRS))):
        seen.clear()
        gold_gradient(model, rows, beta=BETA, batch_tokens=TOKENS, share_prompts=share)
        assert sum(seen) == expected


def test_norms_of_a_pair_are_refused_where_its_row_would_mix() -> None:
    model = adapted("bamba", moved=False)
    scorer = Scorer(model.requires_grad_(False), tiny.random_direction(adapted("bamba", moved=False)))
    requests = [PairRequest(PROMPT, {"chosen": [7, 9], "rejected": [3]}, {"chosen": 1.0, "rejected": -1.0})]
    with pytest.raises(UserError, match=r"^impact\.score_norm: cosine: .*use none or per_token"):
        score_pairs(requests, scorer, TOKENS, share_prompts=True, norms=True)


@pytest.mark.parametrize("family", ["gemma3 for images", "llama4"])
def test_rows_longer_than_a_window_are_not_shared(family: str) -> None:
    config = families.make(family).config
    text = config.get_text_config()
    window = getattr(text, "attention_chunk_size", None) or text.sliding_window
    assert sharing_pays(40, (5, 5), config)
    assert longest_shared_row(config) == window
    assert not sharing_pays(window, (1, 1), config)


def test_a_family_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.make("llama")
    may_share_prompts(model)

    def again(*_: Any) -> Any:
        raise AssertionError("tried again")

    monkeypatch.setattr(sharing, "stand_in", again)
    assert may_share_prompts(families.make("llama"))


def test_a_token_that_the_embedding_lacks_names_its_pair() -> None:
    rows = [{"pair_id": "p1", "prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": None}]
    model = families.make("llama")
    refuse_unknown_tokens(rows, model)
    rows[0]["chosen_ids"] = [families.VOCABULARY]
    with pytest.raises(UserError, match=r"^pair p1: token 865: "):
        refuse_unknown_tokens(rows, model)
