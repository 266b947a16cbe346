"""Measures stage 2's work in one process: scores along a direction, and the gold batch's gradient."""

from __future__ import annotations

import time
from typing import Any

from trace_ray.config import Config
from trace_ray.plan.rates import ScoringRates, peak_gib

COEFFICIENTS = {"chosen": 1.0, "rejected": 1.0}


def measure_scoring(config: Config, rows: list[dict[str, Any]]) -> ScoringRates:
    """Returns how fast one worker scores, and its peak memory, over as many of the rows as fill a batch of a run.

    Args:
        rows: with prompt, chosen and rejected.
    """
    import torch

    from trace_ray.chat.text import accepted
    from trace_ray.impact.direction import gold_gradient
    from trace_ray.impact.pair_scores import PairRequest, score_pairs
    from trace_ray.impact.scores import Scorer
    from trace_ray.model.loading import load_chat_tokenizer, load_model, new_adapter

    impact = config.impact
    torch.set_num_threads(max(1, int(impact.num_cpus)))
    pairs = load_chat_tokenizer(config.model).pairs(
        [row["prompt"] for row in rows], [{name: row[name] for name in COEFFICIENTS} for row in rows]
    )
    requests = [PairRequest(pair.prompt_ids, pair.response_ids, COEFFICIENTS) for pair in accepted(pairs)]
    taken = _filling(requests, impact.batch_tokens)
    model = load_model(config.model)
    full = impact.parameters == "full"
    model = model.requires_grad_(True) if full else new_adapter(model, config.lora, impact.seed)
    gold = [
        {
            "prompt_ids": r.prompt_ids,
            "preferred_ids": r.response_ids["chosen"],
            "dispreferred_ids": r.response_ids["rejected"],
        }
        for r in taken
    ]
    tokens = sum(map(_tokens, taken))
    begun = time.perf_counter()
    direction = gold_gradient(model.eval(), gold, beta=config.objective.beta, batch_tokens=impact.batch_tokens)
    scorer = Scorer(model.requires_grad_(False), direction)
    between = time.perf_counter()
    score_pairs(taken, scorer, impact.batch_tokens, share_prompts=impact.share_prompts)
    scored = time.perf_counter() - between
    return ScoringRates(tokens_s=tokens / scored, gold_tokens_s=tokens / (between - begun), peak_gib=peak_gib())


def _filling(requests: list[Any], batch_tokens: int) -> list[Any]:
    """The first requests that make a batch's tokens: peak memory is that of a full one."""
    taken, tokens = [], 0
    for request in requests:
        taken.append(request)
        tokens += _tokens(request)
        if tokens >= batch_tokens:
            break
    return taken


def _tokens(request: Any) -> int:
    return sum(len(request.prompt_ids) + len(ids) for ids in request.response_ids.values())
