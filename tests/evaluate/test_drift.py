"""Drift against a plain loop over transformers' own logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.support.small_card import Card
from trace_ray.chat.text import TokenizedPair
from trace_ray.config import LoraSettings, ModelConfig
from trace_ray.evaluate.drift import drift, drift_sums, drift_trial
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.model import vocabulary
from trace_ray.model.budget import kept_budget
from trace_ray.model.loading import load_model, new_adapter
from trace_ray.synth.demo import MODELS

PAIRS = [
    TokenizedPair(list(range(4, 4 + p)), {"chosen": list(range(30, 30 + r))}, ()) for p, r in ((3, 5), (9, 1), (2, 7))
]


def tiny() -> torch.nn.Module:
    return load_model(ModelConfig(path=str(MODELS / "policy")))  # type: ignore[no-any-return]


def moved_adapter() -> Any:
    model = new_adapter(tiny(), LoraSettings(), 0).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def slow(model: torch.nn.Module, reference: torch.nn.Module) -> tuple[float, float, float]:
    kl, base, realigned = [], [], []
    for pair in PAIRS:
        ids = [*pair.prompt_ids, *pair.response_ids["chosen"]]
        with torch.no_grad():
            ours, theirs = (m(torch.tensor([ids])).logits[0].double().log_softmax(-1) for m in (model, reference))
        for at in range(len(pair.prompt_ids), len(ids)):
            kl.append(float((theirs[at - 1].exp() * (theirs[at - 1] - ours[at - 1])).sum()))
            base.append(-float(theirs[at - 1, ids[at]]))
            realigned.append(-float(ours[at - 1, ids[at]]))
    return sum(kl) / len(kl), math.exp(sum(base) / len(base)), math.exp(sum(realigned) / len(realigned))


def test_an_untrained_adapter_has_not_drifted() -> None:
    model = new_adapter(tiny(), LoraSettings(), 0).eval()
    figures = drift(model, None, PAIRS, 1000)
    assert figures["kl_to_base"] == pytest.approx(0, abs=1e-7)
    assert figures["ppl_base"] == pytest.approx(figures["ppl_realigned"])
    assert figures["drift_tokens"] == 13


@pytest.mark.parametrize(("batch_tokens", "logit_bytes"), [(8, 2**26), (1000, 2**26), (1000, 1)])
def test_against_a_loop(batch_tokens: int, logit_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", logit_bytes)
    model = moved_adapter()
    figures = drift(model, None, PAIRS, batch_tokens)
    expected = slow(model, tiny())
    seen = [figures[name] for name in ("kl_to_base", "ppl_base", "ppl_realigned")]
    assert seen == pytest.approx(expected, rel=1e-4)
    assert expected[0] > 0.01


def test_two_models_give_what_one_with_an_adapter_gives() -> None:
    model = new_adapter(tiny(), LoraSettings(), 0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.01)
    adapted = drift(model, None, PAIRS, 1000)
    assert drift(model.merge_and_unload(), tiny(), PAIRS, 1000) == pytest.approx(adapted, rel=1e-4)


@pytest.mark.parametrize("two_models", [False, True])
def test_pairs_that_do_not_fit_the_card_drift_the_same_in_halves(two_models: bool) -> None:
    adapted = moved_adapter()
    model, reference = (adapted.merge_and_unload(), tiny()) if two_models else (adapted, None)
    expected = slow(model, tiny()) if two_models else slow(moved_adapter(), tiny())
    card, budget = Card(model), kept_budget("model", "auto", torch.device("cpu"), lambda tokens: None)
    assert budget.tokens == 4096
    card.room = 20  # of each pair's three copies, 8, 10 or 9 tokens each, two at once
    thrice = [pair for pair in PAIRS for _ in range(3)]
    figures = drift(model, reference, thrice, budget)
    assert card.refused
    assert budget.tokens < 4096
    seen = [figures[name] for name in ("kl_to_base", "ppl_base", "ppl_realigned")]
    assert seen == pytest.approx(expected, rel=1e-4)
    assert (expected[0] > 0.01, figures["drift_tokens"]) == (True, 3 * 13)
    assert sum(found.pairs for found in drift_sums(model, reference, thrice, budget)) == len(thrice)


def test_a_trial_of_the_card_runs_both_models_over_the_tokens_it_is_told() -> None:
    model, reference = tiny(), tiny()
    cards = Card(model), Card(reference)
    drift_trial(model, reference, 1024)
    assert [card.seen for card in cards] == [[1024], [1024]]


def test_no_pairs_give_no_figures() -> None:
    assert drift(tiny(), tiny(), [], 10) == {}


def test_the_perplexity_of_a_wreck_is_a_number() -> None:
    figures = DriftSum(kl=5e4, nll_base=1.0, nll_realigned=5e4, tokens=10, pairs=1).figures()
    assert math.isfinite(figures["ppl_realigned"])
