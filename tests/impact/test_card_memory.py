"""A batch that does not fit the card is run in halves: the same results, a budget that stays halved, one line at the end.

The card is a decoder that refuses batches of more tokens than it has room for; all else is what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.impact import tiny
from tests.support.small_card import PLENTY, Card
from trace_ray.cluster.actor_pool import ActorPool
from trace_ray.config import Config, ImpactConfig
from trace_ray.errors import UserError
from trace_ray.impact.budgets import token_budget
from trace_ray.impact.curvature import gauss_newton_product
from trace_ray.impact.direction import adapter_off_log_probs, gold_gradient
from trace_ray.impact.pair_scores import PairRequest, score_pairs
from trace_ray.impact.scores import Scorer
from trace_ray.model import kept
from trace_ray.model.budget import TokenBudget, backward_once, found_tokens, tokens_by_trials

PROMPT = [1, 5, 7, 2]
PAIRS = [([3 + i] * n, [15 + i] * (n + 2)) for n in (2, 5, 8) for i in range(8)]
COEFFICIENTS = {"chosen": 0.7, "rejected": -1.9}
GOLD = [{"prompt_ids": PROMPT, "preferred_ids": a, "dispreferred_ids": b} for a, b in PAIRS]


def on_a_card(*, frozen: bool) -> tuple[Any, dict[str, torch.Tensor], Card]:
    model = tiny.adapted(tiny.llama(), at_init=False)
    direction = tiny.random_direction(model)
    return model.requires_grad_(False) if frozen else model, direction, Card(model)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("wanted", [COEFFICIENTS, None])
def test_pairs_score_the_same_in_halves_and_later_batches_are_small_from_the_start(
    share: bool, wanted: dict[str, float] | None
) -> None:
    model, direction, card = on_a_card(frozen=True)
    scorer = Scorer(model, direction)
    requests = [PairRequest(PROMPT, {"chosen": a, "rejected": b}, wanted) for a, b in PAIRS]
    expected = score_pairs(requests, scorer, 400, share_prompts=share)
    card.room, budget = 60, TokenBudget(400)
    found = score_pairs(requests, scorer, budget, share_prompts=share)
    assert [one.logp for one in found] == [pytest.approx(one.logp, rel=1e-5) for one in expected]
    impacts = [[one.impact or 0.0 for one in some] for some in (found, expected)]
    assert impacts[0] == pytest.approx(impacts[1], rel=1e-4, abs=1e-6)
    assert card.refused
    assert budget.tokens < 400
    score_pairs(requests, scorer, budget, share_prompts=share)
    card.refused = 0
    score_pairs(requests, scorer, budget, share_prompts=share)
    assert card.refused == 0
    assert budget.tokens in (25, 50, 100)


def test_gold_gradient_and_reference_are_the_same_in_halves() -> None:
    model, _, card = on_a_card(frozen=False)
    expected = gold_gradient(model, GOLD, beta=0.3, batch_tokens=400)
    known = adapter_off_log_probs(model, GOLD, 400)
    card.room = 60
    found = gold_gradient(model, GOLD, beta=0.3, batch_tokens=400)
    assert card.refused
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6)
    assert adapter_off_log_probs(model, GOLD, 400) == [pytest.approx(pair, rel=1e-5) for pair in known]


def test_curvature_products_are_the_same_in_halves() -> None:
    model, direction, card = on_a_card(frozen=False)
    model.set_attn_implementation("eager")
    expected = gauss_newton_product(model, GOLD, direction, batch_tokens=400)
    card.room = 60
    found = gauss_newton_product(model, GOLD, direction, batch_tokens=400)
    assert card.refused
    assert all(torch.allclose(found[name], value, rtol=1e-4, atol=1e-6) for name, value in expected.items())


def test_a_single_row_that_does_not_fit_is_one_line() -> None:
    model, direction, card = on_a_card(frozen=True)
    card.room = 12  # the longest response and its prompt are 14 tokens
    requests = [PairRequest(PROMPT, {"chosen": a, "rejected": b}, COEFFICIENTS) for a, b in PAIRS]
    with pytest.raises(UserError, match=r"^impact\.batch_tokens: \d+: the card has no room for a single row: lower "):
        score_pairs(requests, Scorer(model, direction), 400, share_prompts=False)


def test_what_is_asked_for_is_taken_and_auto_on_a_cpu_is_what_it_was() -> None:
    def fails(_tokens: int) -> None:
        pytest.fail("tried on a CPU")

    cpu = torch.device("cpu")
    assert found_tokens(1234, cpu, fails) == 1234
    assert found_tokens("auto", cpu, fails) == 4096
    assert (ImpactConfig().tokens, ImpactConfig(batch_tokens=77).tokens) == (4096, 77)


@pytest.mark.parametrize(
    ("fixed", "a_token", "card", "longest", "tokens"),
    [
        (16e9, 4e6, 80e9, 2048, 12_800),  # 85 % of the card less what is fixed, in steps of 256
        (1e9, 1e3, 80e9, 2048, 65_536),
        (60e9, 8e6, 80e9, 2048, 2048),
        (79e9, 8e6, 80e9, 700, 700),  # it is run, and may fit all the same
    ],
)
def test_two_trials_tell_what_fits(fixed: float, a_token: float, card: float, longest: int, tokens: int) -> None:
    ran: list[int] = []

    def peak(work: Callable[[], object]) -> float:
        work()
        return fixed + a_token * ran[-1]

    assert tokens_by_trials(ran.append, peak, card, longest) == tokens
    assert ran == [1024, 1024, 2048]


def test_a_card_too_small_for_the_trials_gets_rows_one_by_one() -> None:
    model, _, card = on_a_card(frozen=False)
    card.room = 600
    assert tokens_by_trials(lambda tokens: backward_once(model, tokens), lambda work: 0.0, 80e9, 512) == 512
    card.room = PLENTY
    backward_once(model, 1024)
    assert card.seen == [1024]


def test_a_worker_keeps_its_budget_and_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _ = on_a_card(frozen=True)
    monkeypatch.setattr(kept, "_KEPT", {kept.MODEL: ("m", model)})
    budget = token_budget(Config(), model, lambda tokens: None)
    assert kept.model_facts()["batch_tokens"] == 4096
    budget.tokens = 512
    assert token_budget(Config(), model, lambda tokens: None) is budget
    assert kept.model_facts()["batch_tokens"] == 512
    other = Config(impact=ImpactConfig(batch_tokens=99))
    assert token_budget(other, model, lambda tokens: None).tokens == 99


def test_of_several_actors_the_smallest_budget_is_told() -> None:
    pool = ActorPool()
    assert pool.run_as == {}
    for name, tokens in (("a", 4096), ("b", 512), ("a", 1024)):
        pool._result((None, (name, {"loads": 1, "packing": "flat", "batch_tokens": tokens})))
    pool._result((None, ("c", {"loads": 0})))
    assert (pool.loads, pool.run_as) == (2, {"packing": "flat", "batch_tokens": 512})
