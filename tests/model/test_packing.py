"""Packed = padded = alone, and training = scoring: the same log-probs and gradients however responses are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.impact import tiny
from tests.model import families
from trace_ray.config import ModelConfig, ObjectiveConfig
from trace_ray.impact.pair_scores import PairRequest, score_pairs
from trace_ray.impact.scores import Scorer
from trace_ray.model.loading import load_model
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import Packed, PackedBatch, pack, pack_each
from trace_ray.model.sharing import sharing_rule
from trace_ray.objective.batch import micro_batch
from trace_ray.realign.policy_module import HybridPolicy
from trace_ray.synth.demo import MODELS

PAIRS = [
    ([1, 5, 7, 12, 3, 9], [9, 2], [4, 4, 8, 1, 30]),
    ([2, 4], [3, 8, 6, 11, 2, 19, 21], [5]),
    ([14], [2], [6, 7, 13]),
    ([1, 2, 3, 4, 5, 6, 7, 8, 10], [6, 7, 13], [20, 1, 1, 17]),
]
"""Prompt and two responses, every length another."""
NAMES = ("chosen", "rejected")


def shipped() -> Any:
    return load_model(ModelConfig(path=str(MODELS / "policy")))


def of_config(name: str, **more: Any) -> Any:
    """A random model of another family, its window wider than any row here."""
    import transformers

    shape = tiny.SHAPE | {"sliding_window": 40, "pad_token_id": 0} | more
    return families.lively(transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**shape)))


MAKE: dict[str, Callable[[], Any]] = {name: tiny.FAMILIES[name] for name in ("llama", "gemma2", "qwen2", "qwen3")}
MAKE |= {
    "shipped": shipped,
    "gemma3": lambda: of_config("Gemma3TextConfig", layer_types=["sliding_attention", "full_attention"]),
    "mistral": lambda: of_config("MistralConfig"),
    "phi3": lambda: of_config("Phi3Config"),
}
TARGETS = {"phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")}


@pytest.fixture(scope="module", params=MAKE)
def model(request: pytest.FixtureRequest) -> Any:
    targets = TARGETS.get(request.param, tiny.ALL_LINEARS)
    return tiny.adapted(MAKE[request.param](), at_init=False, targets=targets)


def gradients(model: Any, value: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(tiny.trainable(model).values()))])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_packed_is_padded_is_alone(model: Any) -> None:
    """Log-probs and the gradient of a sum in which each response counts differently."""
    sequences = [(prompt, response) for prompt, *pair in PAIRS for response in pair]
    weight_S = torch.linspace(-1.0, 2.0, len(sequences))
    alone_S = torch.stack([tiny.log_prob(model, *sequence) for sequence in sequences])
    expected = gradients(model, (alone_S * weight_S).sum())
    batches: dict[str, PackedBatch] = {
        "padded": pack_each(sequences),
        "packed": pack([Packed(prompt, tuple(pair)) for prompt, *pair in PAIRS]),
        "mixed": pack([Packed(PAIRS[0][0], tuple(PAIRS[0][1:])), *(Packed(p, (y,)) for p, y in sequences[2:])]),
    }
    assert {name: batch.rows for name, batch in batches.items()} == {"padded": 8, "packed": 4, "mixed": 7}
    for batch in batches.values():
        found_S = response_log_probs(model, batch)
        close(found_S, alone_S)
        close(gradients(model, (found_S * weight_S).sum()), expected)


@pytest.mark.parametrize("share", [False, True])
def test_training_has_the_log_probs_of_scoring(model: Any, share: bool) -> None:
    """However either runs them, so that the first loss of a pair is its value at theta_ref."""
    scorer = Scorer(model, tiny.random_direction(model))
    requests = [
        PairRequest(prompt, dict(zip(NAMES, pair, strict=True)), dict.fromkeys(NAMES, 1.0)) for prompt, *pair in PAIRS
    ]
    rows = [
        {"prompt_ids": prompt, "category": "INVERT", "weight": 1.0}
        | {f"{name}_ids": ids for name, ids in zip(NAMES, pair, strict=True)}
        for prompt, *pair in PAIRS
    ]
    batch = micro_batch(rows, ObjectiveConfig(), shared=[share] * len(rows))
    assert batch.tokens()[:2] == (
        sum(2 * len(prompt) + len(a) + len(b) for prompt, a, b in PAIRS),
        sum((1 if share else 2) * len(prompt) + len(a) + len(b) for prompt, a, b in PAIRS),
    )
    trained_S, _ = HybridPolicy(model)(batch.groups)
    for share_scored in (False, True):
        scored = score_pairs(requests, scorer, 64, share_prompts=share_scored)
        at = [batch.place[i, name] for i in range(len(rows)) for name in NAMES]
        close(trained_S[at].detach(), torch.tensor([score.logp[name] for score in scored for name in NAMES]))


@pytest.mark.parametrize("name", ["Gemma2Config", "MistralConfig"])
def test_rows_longer_than_a_window_are_padded_and_never_shared(name: str) -> None:
    """Gemma-2's soft cap runs no flat rows; a window of 3 would be counted over the other response of a shared row."""
    model = tiny.adapted(of_config(name, sliding_window=3), at_init=False, targets=tiny.ALL_LINEARS)
    sequences = [(prompt, response) for prompt, *pair in PAIRS for response in pair]
    alone_S = torch.stack([tiny.log_prob(model, *sequence) for sequence in sequences])
    found_S = response_log_probs(model, pack_each(sequences))
    close(found_S, alone_S)
    close(gradients(model, found_S.sum()), gradients(model, alone_S.sum()))
    pays = sharing_rule(model)
    assert not any(pays(len(prompt), [len(response) for response in pair]) for prompt, *pair in PAIRS)
    together = response_log_probs(model, pack([Packed(prompt, tuple(pair)) for prompt, *pair in PAIRS]))
    assert float((together - alone_S).abs().max()) > 1e-3, "sharing would have been right"
