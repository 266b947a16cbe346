"""What stages 2 and 3 take of a card's memory, by the model's shape: nothing of it is run, and no weights are read.

``model.fit`` has the arithmetic, which a run's own ``auto`` uses too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trace_ray.config import Config, ModelConfig
from trace_ray.config.zero import used_stage
from trace_ray.errors import UserError
from trace_ray.model.fit import (
    Shape,
    fitting_tokens,
    scoring_bytes,
    shape_of,
    token_bytes,
    training_bytes,
)

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class CardUse:
    """What one worker of a stage takes of its card, in bytes.

    Args:
        setting: of the tokens at once; asked: its value; tokens: what that comes to; longest: tokens of the longest row.
        fixed: held whatever is run; a_token: held for each token; card: what there is for the worker.
    """

    stage: str
    setting: str
    asked: int | str
    tokens: int
    longest: int
    fixed: float
    a_token: float
    card: float

    @property
    def needed(self) -> float:
        return self.fixed + max(self.tokens, self.longest) * self.a_token


def runs_lean(model: ModelConfig, *, may_run_flat: bool) -> bool:
    """Returns whether a model of this family runs flat rows with fused steps on a GPU.

    Args:
        may_run_flat: whether the family does, see ``model.flat``.
    """
    flat = model.packing == "flat" or (model.packing == "auto" and model.dtype == "bfloat16")
    return flat and may_run_flat and model.kernels != "torch"


def card_uses(
    config: Config, shape: Shape, card: float, stages: Sequence[str], *, may_run_flat: bool = True
) -> list[CardUse]:
    """Returns what the stages that train or score on GPUs take.

    Args:
        config: with numbers of GPUs; card: bytes of one card.
        may_run_flat: whether the model's family does, see ``model.flat``.
    """
    impact, realign, longest = config.impact, config.realign, config.model.max_length
    lean = runs_lean(config.model, may_run_flat=may_run_flat)
    found = []
    if "impact" in stages and impact.gpus:
        fixed = scoring_bytes(shape, full=impact.parameters == "full", curvature=impact.curvature)
        a_token = token_bytes(shape, "scoring", checkpointed=impact.gradient_checkpointing, lean=lean)
        found.append(("impact", "batch_tokens", impact.batch_tokens, fixed, a_token, card * min(1.0, impact.gpus)))
    if "realign" in stages and realign.on_gpu:
        fixed = training_bytes(shape, realign, used_stage(realign.zero_stage, config.model.dtype))
        fused = lean and realign.zero_stage < 3  # which gathers weights for the modules' own forwards alone
        a_token = token_bytes(shape, "training", checkpointed=realign.gradient_checkpointing, lean=fused)
        found.append(("realign", "micro_tokens", realign.micro_tokens, fixed, a_token, card))
    return [
        CardUse(
            stage=stage,
            setting=f"{stage}.{name}",
            asked=asked,
            tokens=fitting_tokens(room, fixed, a_token, longest) if isinstance(asked, str) else asked,
            longest=longest,
            fixed=fixed,
            a_token=a_token,
            card=room,
        )
        for stage, name, asked, fixed, a_token, room in found
    ]


def too_large(uses: Sequence[CardUse]) -> Iterator[UserError]:
    """Yields the stages that cannot fit their card."""
    for use in uses:
        if use.needed <= use.card:
            continue
        needed = f"about {use.needed / GIB:.0f} GiB of a card's {use.card / GIB:.0f}"
        if use.fixed + use.longest * use.a_token > use.card:
            more = ", realign.zero_stage=3 on more workers" if use.stage == "realign" else ""
            remedy = f"{use.stage}.gradient_checkpointing=true, a shorter model.max_length{more} or a larger card"
            yield UserError(
                use.setting, use.asked, f"a single row of {use.longest} tokens takes {needed}: use {remedy}"
            )
        else:
            most = fitting_tokens(use.card, use.fixed, use.a_token, use.longest)
            yield UserError(use.setting, use.asked, f"{needed}: give at most {most}, or auto")


def cards_of(config: Config, stages: Sequence[str], card: float) -> list[CardUse]:
    """Returns ``card_uses`` of the configured model; nothing where no stage uses a GPU or no card's size is known.

    Raises: UserError where there is no such model.
    """
    on_gpu = ("impact" in stages and config.impact.gpus) or ("realign" in stages and config.realign.on_gpu)
    if not on_gpu or not card or not config.model.path:
        return []
    from trace_ray.model.decoder import causal_lm
    from trace_ray.model.flat import may_run_flat
    from trace_ray.model.known import bare_model

    bare = bare_model(config.model)
    shape = shape_of(causal_lm(bare).config, bare.num_parameters(), config.model.dtype)
    flat = config.model.attention == "sdpa" and may_run_flat(bare)
    return card_uses(config, shape, card, stages, may_run_flat=flat)
