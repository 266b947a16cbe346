"""Measures stage 2's work in one process: scores along a direction, and the gold batch's gradient."""

from __future__ import annotations

import time
from typing import Any

from trace_ray.config import Config
from trace_ray.plan.probe_training import policy_model, rows_apart, seconds_a_token
from trace_ray.plan.rates import GIB, ScoringRates, held_bytes, peak_gib
from trace_ray.plan.units import BACKWARD, affordable
from trace_ray.runs.memory import PeakMemory

COEFFICIENTS = {"chosen": 1.0, "rejected": 1.0}
_SAMPLE_S = 0.01


def measure_scoring(config: Config, rows: list[dict[str, Any]]) -> ScoringRates:
    """Returns how fast one worker scores, and its peak memory with a full batch of a run.

    Where a full batch would take long a smaller one is timed, and the memory is told from that.

    Args:
        rows: with prompt, chosen and rejected.
    """
    import torch

    from trace_ray.impact.direction import gold_gradient
    from trace_ray.impact.pair_scores import PairRequest, score_pairs
    from trace_ray.impact.scores import Scorer

    impact = config.impact
    torch.set_num_threads(max(1, int(impact.num_cpus)))
    model = policy_model(config, full=impact.parameters == "full").eval()
    apart = rows_apart(config.model, rows)
    token_s = seconds_a_token(model, [row for pair in apart for row in pair])
    requests = [
        PairRequest(
            pair[0].prompt_ids,
            dict(zip(COEFFICIENTS, (row.response_ids[0] for row in pair), strict=True)),
            COEFFICIENTS,
        )
        for pair in apart
    ]
    taken = _filling(requests, affordable(impact.tokens, BACKWARD * token_s))
    tokens, whole = (sum(map(_tokens, some)) for some in (taken, _filling(requests, impact.tokens)))
    held = held_bytes()
    with PeakMemory(_SAMPLE_S, held_bytes) as memory:
        begun = time.perf_counter()
        direction = gold_gradient(model, _gold(taken), beta=config.objective.beta, batch_tokens=impact.tokens)
        scorer = Scorer(model.requires_grad_(False), direction)
        between = time.perf_counter()
        score_pairs(taken, scorer, impact.tokens, share_prompts=impact.share_prompts)
        scored = time.perf_counter() - between
    full = held + (memory.peak_bytes - held) * whole / tokens
    peak = max(peak_gib(), full / GIB)
    return ScoringRates(tokens_s=tokens / scored, gold_tokens_s=tokens / (between - begun), peak_gib=peak)


def _gold(requests: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "prompt_ids": request.prompt_ids,
            "preferred_ids": request.response_ids["chosen"],
            "dispreferred_ids": request.response_ids["rejected"],
        }
        for request in requests
    ]


def _filling(requests: list[Any], batch_tokens: int) -> list[Any]:
    """The first requests that make a batch's tokens."""
    taken, tokens = [], 0
    for request in requests:
        taken.append(request)
        tokens += _tokens(request)
        if tokens >= batch_tokens:
            break
    return taken


def _tokens(request: Any) -> int:
    return sum(len(request.prompt_ids) + len(ids) for ids in request.response_ids.values())
