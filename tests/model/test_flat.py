"""Flat rows = padded rows = each response alone: log-probs, gradients and scores, and whole steps of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.impact import tiny
from tests.model import families
from tests.model.test_packing import MAKE, NAMES, PAIRS, TARGETS, close, gradients, of_config
from trace_ray.errors import UserError
from trace_ray.impact.direction import gold_gradient
from trace_ray.impact.pair_scores import PairRequest, score_pairs
from trace_ray.impact.scores import Scorer
from trace_ray.model.attention import Layout
from trace_ray.model.flat import batch_places, choose_packing, may_run_flat, runs_flat
from trace_ray.model.log_probs import response_log_probs
from trace_ray.model.packing import Packed, PackedBatch, pack, pack_each

SEQUENCES = [(prompt, response) for prompt, *pair in PAIRS for response in pair]
WEIGHT_S = torch.linspace(-1.0, 2.0, len(SEQUENCES))
ROWS = [Packed(PAIRS[0][0], (response,)) for response in PAIRS[0][1:]]
ROWS += [Packed(prompt, tuple(pair)) for prompt, *pair in PAIRS[1:]]
"""The first pair's responses apart, the others' behind one prompt."""


def narrow(name: str, **more: Any) -> Callable[[], Any]:
    """A random model whose windows are narrower than the sequences."""
    return lambda: of_config(name, sliding_window=3, **more)


FLAT = {name: make for name, make in MAKE.items() if name != "gemma2"}
FLAT |= {
    "mistral, narrow": narrow("MistralConfig"),
    "phi3, narrow": narrow("Phi3Config"),
    "qwen2, narrow": narrow("Qwen2Config", use_sliding_window=True, max_window_layers=1),
    "gemma3, narrow": narrow("Gemma3TextConfig", layer_types=["sliding_attention", "full_attention"]),
}


def adapted(name: str) -> Any:
    targets = TARGETS.get(name.partition(",")[0], tiny.ALL_LINEARS)
    return tiny.adapted(FLAT[name](), at_init=False, targets=targets)


@pytest.mark.parametrize("name", FLAT)
def test_flat_is_alone(name: str) -> None:
    model = adapted(name)
    alone_S = torch.stack([tiny.log_prob(model, *sequence) for sequence in SEQUENCES])
    expected = gradients(model, (alone_S * WEIGHT_S).sum())
    direction = tiny.random_direction(model)
    along = [tiny.derivative(model, tiny.log_prob(model, *sequence), direction) for sequence in SEQUENCES]
    assert choose_packing(model, "flat", "cpu")
    batch = pack(ROWS, flat=True)
    assert (batch.rows, batch.input_ids_BT.shape) == (5, (1, sum(map(len, ROWS))))
    found_S = response_log_probs(model, batch)
    close(found_S, alone_S)
    close(gradients(model, (found_S * WEIGHT_S).sum()), expected)
    scored = Scorer(model, direction).score(batch, WEIGHT_S)
    close(scored.logp_S, alone_S)
    by_row = torch.zeros(batch.rows).index_add(0, batch.row_S, torch.tensor(along) * WEIGHT_S)
    assert tiny.relative_error(scored.score_B.tolist(), by_row.tolist()) <= 1e-5
    close(response_log_probs(model, pack_each(SEQUENCES)), alone_S)  # its padded rows are what they were


def test_every_weight_is_scored_in_flat_rows() -> None:
    """Embeddings, norms over heads, biases and the head: modules that see tokens in other shapes."""
    model = tiny.FAMILIES["qwen3"]()
    direction = tiny.random_direction(model)
    along = [tiny.derivative(model, tiny.log_prob(model, *sequence), direction) for sequence in SEQUENCES]
    choose_packing(model.requires_grad_(False), "flat", "cpu")
    batch = pack(ROWS, flat=True)
    found = Scorer(model, direction).score(batch, WEIGHT_S).score_B
    by_row = torch.zeros(batch.rows).index_add(0, batch.row_S, torch.tensor(along) * WEIGHT_S)
    assert tiny.relative_error(found.tolist(), by_row.tolist()) <= 1e-5


@pytest.mark.parametrize("family", ["bamba", "qwen3.5", "lfm2", "mpt", "bloom", "falcon_h1"])
def test_a_family_whose_states_run_along_a_row_has_none_flat(family: str) -> None:
    model = families.make(family)
    assert not choose_packing(model, "auto", "cuda")
    assert not runs_flat(model)
    with pytest.raises(UserError, match="does not keep such sequences apart: use auto"):
        choose_packing(model, "flat", "cpu")


def test_a_cap_on_attention_rules_flat_rows_out() -> None:
    assert not may_run_flat(tiny.FAMILIES["gemma2"]())


def test_auto_is_flat_on_a_gpu_in_bfloat16_alone() -> None:
    chosen = {
        (dtype, device): choose_packing(tiny.FAMILIES["llama"]().to(dtype), "auto", device)
        for dtype in (torch.float32, torch.bfloat16)
        for device in ("cpu", "cuda")
    }
    assert [of for of, flat in chosen.items() if flat] == [(torch.bfloat16, "cuda")]
    assert not choose_packing(tiny.FAMILIES["llama"]().to(torch.bfloat16), "rows", "cuda")


def test_scores_and_the_gold_direction_are_those_of_padded_rows() -> None:
    requests = [
        PairRequest(p, dict(zip(NAMES, pair, strict=True)), {"chosen": 0.7, "rejected": -1.9}) for p, *pair in PAIRS
    ]
    requests += [PairRequest(p, {"chosen": pair[0]}, None) for p, *pair in PAIRS]
    gold = [{"prompt_ids": p, "preferred_ids": a, "dispreferred_ids": b} for p, a, b in PAIRS]
    model = adapted("llama")
    direction = tiny.random_direction(model)

    def found() -> tuple[list[float], dict[str, torch.Tensor]]:
        scored = score_pairs(requests, Scorer(model, direction), 24, share_prompts=True)
        values = [value for score in scored for value in (score.impact or 0.0, *score.logp.values())]
        return values, gold_gradient(model, gold, beta=0.3, batch_tokens=24)

    padded, padded_gold = found()
    choose_packing(model, "flat", "cpu")
    flat, flat_gold = found()
    assert tiny.relative_error(flat, padded) <= 1e-5
    for name, gradient in padded_gold.items():
        close(flat_gold[name], gradient)


def test_a_prompts_gradient_comes_from_all_that_read_it() -> None:
    """More responses than two, and one that is empty of neighbours, against the sum of rows of their own."""
    model = adapted("llama")
    prompt, responses = [3, 1, 4, 1, 5], ([9, 2], [6, 5, 3], [5], [8, 9, 7, 9])
    alone = gradients(model, sum((tiny.log_prob(model, prompt, y) for y in responses), torch.zeros(())))
    choose_packing(model, "flat", "cpu")
    batch = pack([Packed([2, 7], ([1],)), Packed(prompt, responses)], flat=True)
    close(gradients(model, response_log_probs(model, batch)[1:].sum()), alone)


def test_batches_hold_all_rows_and_no_more_tokens_than_asked_for() -> None:
    lengths = [5, 90, 7, 30, 30, 12, 55, 3, 41]
    places = batch_places(lengths, 100, flat=True)
    assert [i for batch in places for i in batch] == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= 100 for batch in places)
    assert batch_places([700, 5], 100, flat=True) == [[0], [1]]  # one row above the bound runs alone


def test_a_layout_says_who_reads_what() -> None:
    """By hand: a prompt of 2 with responses of 1 and 2, then a row of one response."""
    layout = Layout.of([(2, [1, 2]), (1, [2])])
    assert layout.bounds == ((0, 2, 0, 2), (2, 3, 2, 5), (3, 5, 5, 9), (5, 8, 9, 12))
    assert layout.key_J is not None
    assert layout.readers_TU is not None
    assert layout.key_J.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 6, 7]
    assert layout.readers_TU.tolist() == [[0, 2, 5], [1, 3, 6], *([j, 12, 12] for j in (4, 7, 8, 9, 10, 11))]
    assert layout.row_lengths_B.tolist() == [5, 3]
    alone = Layout.of([(2, [1]), (1, [2])])
    assert (alone.key_J, alone.longest_q, alone.longest_k) == (None, 3, 3)


def test_a_batch_moves_with_its_layout() -> None:
    moved: PackedBatch = pack(ROWS, flat=True).to(torch.device("meta"))
    assert moved.layout is not None
    assert moved.layout.starts_q.device.type == moved.layout.row_lengths_B.device.type == "meta"
