"""Before triage: whether the model can be scored and trained at all, tried without its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.impact.scores import Scorer
from trace_ray.model.decoder import causal_lm
from trace_ray.model.head import OutputHead
from trace_ray.model.known import bare_model, check_tokenizer
from trace_ray.model.loading import load_chat_tokenizer, new_adapter
from trace_ray.model.packing import pack_each
from trace_ray.model.probe import check_log_probs, own_log_probs, trial_sequences
from trace_ray.model.sharing import shared_rows_agree
from trace_ray.model.stand_in import stand_in
from trace_ray.model.targets import target_linears

AGREE = 1e-3
"""Difference of a score from autograd's, as a share of the larger of the two scores."""


def check_model(config: Config) -> None:
    """Raises UserError for a model, tokenizer or adapter that stages 2 and 3 would fail on, or score wrongly.

    No weights are read, so it costs seconds for a model of any size: names are looked up in the model without weights,
    and what it computes is tried on a small random model of its family with its own multipliers, caps and layer kinds
    (``stand_in``). Where no small one can be made, the model itself is tried when it is loaded.
    """
    path = config.model.path
    bare = bare_model(config.model)
    OutputHead(bare)  # refuses one that is more than a linear
    check_tokenizer(load_chat_tokenizer(config.model), path, bare.get_input_embeddings().weight.shape[0])
    lora = "lora" in (config.impact.parameters, config.realign.tune)
    if lora:
        target_linears(bare, config.lora.target_modules)
    small = stand_in(type(bare), bare.config)
    if small is None:
        return
    check_log_probs(small, path)
    if config.impact.score_norm == "cosine" and not shared_rows_agree(small):
        remedy = f"it needs a pair's responses in one row, which {type(bare).__name__} does not keep apart: use none"
        raise UserError("impact.score_norm", "cosine", f"{remedy} or per_token")
    _check_scores(small, config)


def _check_scores(small: Any, config: Config) -> None:
    """Raises UserError where scores along a direction differ from one autograd call a response."""
    if config.impact.parameters == "lora":
        names = _present(small, config.lora.target_modules)
        if not names:  # of layers that the small model lacks
            return
        with torch.random.fork_rng(devices=[]):
            small = new_adapter(small, replace(config.lora, target_modules=names, dropout=0.0), 0).eval()
    else:
        small.requires_grad_(True)
    trained = {name: p for name, p in small.named_parameters() if p.requires_grad}
    prompt, responses = trial_sequences(small)
    values = [own_log_probs(causal_lm(small), prompt, response).sum() for response in responses]
    gradients = [torch.autograd.grad(value, list(trained.values()), allow_unused=True) for value in values]
    generator = torch.Generator().manual_seed(0)
    used = {name for each in gradients for name, g in zip(trained, each, strict=True) if g is not None}
    direction = {
        name: torch.randn(p.shape, generator=generator) if name in used else torch.zeros_like(p)
        for name, p in trained.items()
    }
    expected = [
        sum(float((g * direction[name]).sum()) for name, g in zip(trained, each, strict=True) if g is not None)
        for each in gradients
    ]
    small.requires_grad_(False)
    found = Scorer(small, direction).score(pack_each((prompt, r) for r in responses)).score_B
    difference = max(abs(float(f) - e) for f, e in zip(found, expected, strict=True)) / max(abs(e) for e in expected)
    if not difference <= AGREE:
        name = type(causal_lm(small)).__name__
        remedy = (
            f"impact scores of {name} along these weights are off by {difference:.0%}: use all-linear or fewer modules"
        )
        raise UserError("lora.target_modules", ", ".join(config.lora.target_modules), remedy)


def _present(small: Any, targets: tuple[str, ...]) -> tuple[str, ...]:
    names = [name for name, _ in small.named_modules()]
    return tuple(t for t in targets if t == "all-linear" or any(n == t or n.endswith(f".{t}") for n in names))
