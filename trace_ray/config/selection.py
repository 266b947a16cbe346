"""What choosing a checkpoint (``realign.select``) must fulfil."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trace_ray.config.tree import Config
from trace_ray.errors import UserError


def select_problems(config: Config) -> Iterator[UserError]:
    """Yields what a selection is at odds with."""
    steps = config.realign.select.steps
    if steps and config.realign.tune == "full":
        yield UserError(
            "realign.select.steps", steps, "only adapters are kept by the step: use realign.tune=lora, or 0"
        )
    if steps and config.objective.weights == "u2a":
        yield UserError("realign.select.steps", steps, "u2a trains in rounds, the last of which is kept: use 0")
    scales = config.realign.select.scales
    for scale in scales:
        if not 0.01 <= scale <= 1 or abs(100 * scale - round(100 * scale)) > 1e-6:
            yield UserError(
                "realign.select.scales", scale, "give scales in (0, 1], in hundredths, such as [0.3, 0.5, 0.7]"
            )
    if scales and not steps:
        yield UserError(
            "realign.select.scales", list(scales), "they are tried at a selection's end: give realign.select.steps"
        )


def with_selection(config: Config, stages: Sequence[str]) -> list[str]:
    """Returns the stages, and ``evaluate`` where training asks its engine and its judge: they must be there.

    Raises: UserError where there is nothing to take dev prompts of.
    """
    if not config.realign.select.steps or "realign" not in stages:
        return list(stages)
    if not (config.corpus.holdout or config.corpus.test_paths):
        remedy = "dev prompts are held-out ones: raise it, name corpus.test_paths, or use realign.select.steps=0"
        raise UserError("corpus.holdout", 0, remedy)
    return [*stages, "evaluate"]
