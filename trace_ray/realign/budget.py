"""The tokens of a micro-step where ``realign.micro_tokens`` is auto: what fits every worker's card."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from trace_ray.config import Config
from trace_ray.config.zero import used_stage
from trace_ray.errors import UserError
from trace_ray.model.budget import backward_once, card_bytes, found_tokens
from trace_ray.model.decoder import causal_lm
from trace_ray.model.fit import fitting_tokens, shape_of, token_bytes, training_bytes


def step_tokens(model: Any, device: torch.device, config: Config) -> int:
    """Returns the tokens of a micro-step, the same on all workers: a collective call.

    Found by two trials; at ZeRO 3, where no worker runs alone, by the model's shape.

    Args:
        model: that is trained, its optimizer made; device: where.
    """
    asked, longest = config.realign.micro_tokens, config.model.max_length
    if not isinstance(asked, str):
        return asked
    if device.type == "cuda" and config.realign.zero_stage == 3:
        found = _by_shape(model, device, config)
    else:
        trial = partial(backward_once, model, sums=False)
        found = found_tokens(asked, device, trial, longest=longest)
    fewest = torch.tensor([found], device=device)
    torch.distributed.all_reduce(fewest, torch.distributed.ReduceOp.MIN)
    return int(fewest)


def refuse_longer(most: int, tokens: int, asked: int | str, device: torch.device) -> None:
    """Raises UserError where a pair takes more of a GPU than a micro-step is to; on a CPU it is run alone.

    Args:
        most: tokens of the largest pair that is trained on, whose sequences are run together; tokens: of a micro-step.
        asked: ``realign.micro_tokens``.
    """
    if device.type == "cuda" and most > tokens:
        more = "give as many, or auto" if asked == tokens else f"{tokens} fit: give realign.gradient_checkpointing=true"
        remedy = f"a pair's sequences of {most} tokens run at once; {more}, or score again in a new run with a lower "
        raise UserError("realign.micro_tokens", asked, f"{remedy}model.max_length")


def _by_shape(model: Any, device: torch.device, config: Config) -> int:
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    shape, realign = shape_of(causal_lm(model).config, parameters, config.model.dtype), config.realign
    # At this stage nothing is fused: weights are gathered for the modules' own forwards alone.
    a_token = token_bytes(shape, "training", checkpointed=realign.gradient_checkpointing, lean=False)
    fixed = training_bytes(shape, realign, used_stage(realign.zero_stage, config.model.dtype))
    return fitting_tokens(card_bytes(device), fixed, a_token, config.model.max_length)
