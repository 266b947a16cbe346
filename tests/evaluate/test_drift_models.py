"""Drift of a run's model by a process that keeps what it loads: piece after piece, an adapter or two models, small cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.realign import handmade
from tests.support.drifted import drifted_run, moved, retained
from tests.support.small_card import Card
from trace_ray.chat.text import accepted
from trace_ray.config import Config, ModelConfig
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.evaluate.models import measure_drift
from trace_ray.model import kept, loading
from trace_ray.model.kept import model_facts
from trace_ray.model.loading import load_chat_tokenizer, load_model

COUNT = 11


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return handmade.tiny_config(handmade.tiny_model(tmp_path_factory.mktemp("model")))


def kl_of(config: Config) -> tuple[float, int]:
    """Sum of the KL over the chosen answers' tokens, and these, by a loop over the models' own logits."""
    ours, theirs = moved(config), load_model(config.model)
    tokenizer, total, tokens = load_chat_tokenizer(config.model), 0.0, 0
    rows = retained(COUNT)
    for pair in accepted(tokenizer.pairs([r["prompt"] for r in rows], [{"chosen": r["chosen"]} for r in rows])):
        ids, start = [*pair.prompt_ids, *pair.response_ids["chosen"]], len(pair.prompt_ids)
        with torch.no_grad():
            p, q = (m(torch.tensor([ids])).logits[0].double().log_softmax(-1)[start - 1 : -1] for m in (theirs, ours))
        total += float((p.exp() * (p - q)).sum())
        tokens += len(ids) - start
    return total, tokens


@pytest.mark.parametrize(("kept_as", "loads"), [("adapter", 1), ("merged", 2)])
def test_pieces_add_up_to_a_loop_and_each_model_is_loaded_once(
    tmp_path: Path, config: Config, kept_as: str, loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First on a card with room for all, then on one where a few rows fit: the same sums."""
    run, rows = drifted_run(tmp_path, config, kept_as, COUNT), retained(COUNT)
    before, threads = model_facts()["loads"], torch.get_num_threads()
    pieces = [measure_drift(run, config, rows[at : at + 4]) for at in range(0, COUNT, 4)]
    told = model_facts()
    assert told["loads"] - before == loads
    assert told["batch_tokens"] == 4096
    total, tokens = kl_of(config)
    assert [piece.pairs for piece in pieces] == [4, 4, 3]
    whole = sum(pieces, DriftSum())
    assert whole.kl == pytest.approx(total, rel=1e-4)
    assert whole.tokens == tokens
    assert whole.kl / whole.tokens > 1e-3
    cards: list[Card] = []

    def on_a_small_card(settings: ModelConfig) -> Any:
        model = load_model(settings)
        cards.append(Card(model))
        cards[-1].room = 100
        return model

    monkeypatch.setattr(kept, "_KEPT", {})
    monkeypatch.setattr(loading, "load_model", on_a_small_card)
    assert measure_drift(run, config, rows).kl == pytest.approx(total, rel=1e-4)
    torch.set_num_threads(threads)
    assert sum(card.refused for card in cards)
    assert model_facts()["batch_tokens"] < 4096
