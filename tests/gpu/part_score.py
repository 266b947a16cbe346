"""Scoring at the shape: pairs a second of ``score_pairs``, and of the plain forward beside it."""

from __future__ import annotations

import argparse
from typing import Any

from tests.gpu.figures import forget_peak, peak_gib, peak_share, profiled, run_parameters, tell
from tests.gpu.shapes import clocked, llama, paths_taken, settings, tokenized, tokens_alone, use_random_weights


def measure(options: argparse.Namespace) -> bool:
    """Tells the figures of scoring and of the forward; returns whether all went well."""
    import torch

    from trace_ray.impact.pair_scores import PairRequest, score_pairs
    from trace_ray.model.flat import choose_packing
    from trace_ray.model.fused import fuse
    from trace_ray.model.loading import load_model, new_adapter

    use_random_weights(lambda: llama(options.shape))
    config = settings(options)
    base = load_model(config.model)
    model = new_adapter(base, config.lora, 0).eval().requires_grad_(False)
    model.to(base.device)
    choose_packing(model, config.model.packing, base.device)
    fuse(model, config.model.kernels, base.device)
    generator = torch.Generator(base.device).manual_seed(1)
    direction = {
        name: torch.randn(p.shape, generator=generator, device=p.device) * 0.01
        for name, p in model.named_parameters()
        if "lora_" in name
    }
    pairs = tokenized(config, options.pairs)
    tokens, parameters = tokens_alone(pairs), run_parameters(model)
    scorer = _counting(model, direction)
    share, batch_tokens = not options.no_sharing, config.impact.tokens
    tell(pairs=len(pairs), tokens=tokens, parameters=parameters, batch_tokens=batch_tokens, share_prompts=share)
    about = {"score": {"chosen": -0.15, "rejected": 0.15}, "forward": None}
    for kind, coefficients in about.items():
        requests = [PairRequest(p.prompt_ids, p.response_ids, coefficients) for p in pairs]
        warm = requests[: _filling(pairs, batch_tokens)]
        score_pairs(warm, scorer, batch_tokens, share_prompts=share)
        forget_peak()
        scorer.forget()
        found, seconds = clocked(lambda r=requests: score_pairs(r, scorer, batch_tokens, share_prompts=share))  # type: ignore[misc]
        run = scorer.tokens if kind == "score" else tokens
        figures: dict[str, Any] = {"seconds": seconds, "tokens_per_s": tokens / seconds, "tokens_run": run}
        figures |= {"tokens_run_per_s": run / seconds, "pairs_per_s": len(pairs) / seconds, **peak_gib()}
        figures["peak_share"] = peak_share(parameters, run, 2 if kind == "score" else 1, seconds)
        if kind == "score":
            figures |= {"batches": scorer.batches, "padding": 1 - scorer.tokens / scorer.padded}
            figures |= paths_taken(model, config, scorer.last) | {"masked_batches": scorer.masked}
            figures |= {"impacts": [round(o.impact, 6) for o in found[:3]]}
        tell(**{kind: figures})
        if options.profile and kind == "score":
            profiled(lambda w=warm: score_pairs(w * 2, scorer, batch_tokens, share_prompts=share))  # type: ignore[misc]
    return True


def _filling(pairs: list[Any], batch_tokens: int) -> int:
    """How many pairs are sure to fill a batch: work of that size is done once before the clock starts."""
    filled = 0
    for number, pair in enumerate(pairs):
        filled += len(pair.prompt_ids) + sum(map(len, pair.response_ids.values()))
        if filled > batch_tokens:
            return number + 1
    return len(pairs)


def _counting(model: Any, direction: Any) -> Any:
    from trace_ray.impact.scores import Scorer

    class Counting(Scorer):
        """Counts what it is given."""

        def forget(self) -> None:
            self.tokens = self.padded = self.batches = self.masked = 0

        def score(self, batch: Any, *more: Any, **named: Any) -> Any:
            self.tokens, self.padded = self.tokens + batch.tokens, self.padded + batch.input_ids_BT.numel()
            self.batches, self.last = self.batches + 1, batch
            self.masked += batch.visible_B1TT is not None
            return super().score(batch, *more, **named)

    scorer = Counting(model, direction)
    scorer.forget()
    return scorer
