"""What packing and bf16 do to log-probs and scores: batches as scoring runs them against each response alone.

Tiny models of random weights, one for each kind of attention, on the device. The truth is float32, each response in a
forward of its own. Errors are root mean squares over the responses, as a share of the truth's.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.gpu.figures import tell
from tests.gpu.shapes import on_card, paths_taken, settings, use_random_weights

SHAPE: dict[str, Any] = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512}
ON_CPU = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}  # bfloat16 is slow there
SHAPE |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WINDOW: dict[str, Any] = {"sliding_window": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen3": ("Qwen3Config", {}),
    "gemma2": ("Gemma2Config", WINDOW | {"query_pre_attn_scalar": 64}),
    "gemma3": ("Gemma3TextConfig", WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": ("MistralConfig", WINDOW),
}
FP32_ERROR, BF16_RATIO = 1e-4, 2.0
SPANS = [(4, 10)] * 4 + [(20, 60)] * 6
"""Tokens of a pair's prompt and of its responses: least and most."""
COEFFICIENTS = {"chosen": 0.7, "rejected": -1.9}
Values = dict[str, list[float]]


def measure(options: argparse.Namespace) -> bool:
    """Tells each family's errors; returns whether all are within the limits."""
    pairs = made_pairs()
    good = True
    for family in options.families.split(","):
        try:
            figures = of_family(family, pairs, options)
        except Exception as error:  # noqa: BLE001 - a family that fails is told, and the others go on
            figures = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        good &= figures["ok"]
        tell(**{family: figures})
    return good


def of_family(family: str, pairs: Sequence[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns one family's errors, and which attention and kernels made them."""
    figures: dict[str, Any] = {"ok": True}
    truth: Values = {}
    for name, dtype, packing in (
        ("fp32", "float32", "rows"),
        ("fp32_flat", "float32", "flat"),
        ("bf16", "bfloat16", ""),
    ):
        found = loaded(family, options, dtype, packing)
        if found is None:
            figures[name] = "this family runs no flat rows"
            continue
        config, scorer = found
        by_one = alone(scorer, pairs)
        truth = truth or by_one
        figures[name] = wrong = errors(packed(scorer, pairs, config.impact.tokens), truth)
        taken = paths_taken(scorer.model, config)
        figures[f"{name}_path"] = f"{taken['packing']}, {taken['attention']}, kernels {taken['kernels']}"
        if dtype == "float32":
            figures["ok"] &= all(error <= FP32_ERROR for error in wrong.values())
        else:
            figures["bf16_one_by_one"] = least = errors(by_one, truth)
            figures["ok"] &= all(wrong[what] <= BF16_RATIO * least[what] for what in wrong)
    return figures


def loaded(family: str, options: argparse.Namespace, dtype: str, packing: str) -> tuple[Any, Any] | None:
    """Returns (settings, scorer) of a family's model with an adapter away from its start: the same weights in each dtype.

    Args:
        packing: ``rows``, ``flat`` (None where the family runs no such rows), or empty = as the settings have it.
    """
    import torch
    import transformers

    from trace_ray.errors import UserError
    from trace_ray.impact.scores import Scorer
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse
    from trace_ray.model.loading import load_model, new_adapter

    kind, more = FAMILIES[family]
    shape = SHAPE | ({} if on_card() else ON_CPU)
    use_random_weights(lambda: getattr(transformers, kind)(**shape, **more))
    config = settings(options, "lora.target_modules=[all-linear]")
    config = replace(config, model=replace(config.model, dtype=dtype))
    try:
        base = load_model(config.model)
    except UserError as mistake:  # Gemma-2's cap, where sdpa is asked for
        if mistake.where != "model.attention":
            raise
        config = replace(config, model=replace(config.model, attention="eager"))
        base = load_model(config.model)
    model = new_adapter(base, config.lora, 0).eval().requires_grad_(False)
    model.to(base.device)
    generator = torch.Generator().manual_seed(3)
    direction = {}
    for name, parameter in model.named_parameters():
        moved = torch.randn(parameter.shape, generator=generator)
        if "lora_" in name:
            parameter.copy_(moved * 0.05)
            direction[name] = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        elif parameter.ndim > 1:  # values that bfloat16 has, in both
            parameter.copy_((moved * 0.05).bfloat16())
    try:
        choose_packing(model, packing or config.model.packing, base.device)
    except UserError:
        return None
    fuse(model, config.model.kernels, base.device)
    return config, Scorer(model, direction)


def made_pairs() -> list[Any]:
    """Returns pairs of random tokens, responses and prompts of unlike lengths, some beyond the window and some within."""
    from trace_ray.impact.pair_scores import PairRequest

    draw = random.Random(5)

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(3, SHAPE["vocab_size"]) for _ in range(draw.randint(least, most))]

    return [
        PairRequest(tokens(*span), {name: tokens(*span) for name in COEFFICIENTS}, dict(COEFFICIENTS)) for span in SPANS
    ]


def alone(scorer: Any, pairs: Sequence[Any]) -> Values:
    """Returns log pi, s(y) and the impacts, each response in a forward of its own."""
    from trace_ray.model.packing import pack_each

    logp: list[float] = []
    s: list[float] = []
    impact: list[float] = []
    for pair in pairs:
        device = next(scorer.model.parameters()).device
        scored = [scorer.score(pack_each([(pair.prompt_ids, y)]).to(device)) for y in pair.response_ids.values()]
        logp += [float(one.logp_S[0]) for one in scored]
        of = {name: float(one.score_B[0]) for name, one in zip(pair.response_ids, scored, strict=True)}
        s += of.values()
        impact.append(sum(pair.coefficients[name] * value for name, value in of.items()))
    return {"logp": logp, "s": s, "impact": impact}


def packed(scorer: Any, pairs: Sequence[Any], batch_tokens: int) -> Values:
    """Returns the same as scoring makes them: s(y) in rows of their own, log pi and impacts with shared prompts."""
    from trace_ray.impact.pair_scores import score_pairs

    def scored(*, share_prompts: bool) -> Any:
        return score_pairs(pairs, scorer, batch_tokens, share_prompts=share_prompts)

    apart, shared = scored(share_prompts=False), scored(share_prompts=True)
    by_name: Callable[[Any, str], list[float]] = lambda found, what: [  # noqa: E731
        getattr(one, what)[name] for one in found for name in COEFFICIENTS
    ]
    return {"logp": by_name(shared, "logp"), "s": by_name(apart, "s"), "impact": [one.impact for one in shared]}


def errors(found: Values, truth: Values) -> dict[str, float]:
    """Returns the root mean square of what differs, as a share of the truth's."""

    def size(values: Sequence[float]) -> float:
        return math.sqrt(sum(value * value for value in values))

    return {
        name: size([a - b for a, b in zip(found[name], truth[name], strict=True)]) / size(truth[name]) for name in truth
    }
