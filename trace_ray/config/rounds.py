"""Settings of the rounds that follow a run: its model's own answers become the pairs of the next."""

from __future__ import annotations

from dataclasses import dataclass

from trace_ray.config.fields import resource


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """On-policy rounds: the model of the round before answers the training prompts, all stages run on these answers.

    Each after the first is a run below RUN/rounds/ whose pairs are the model's own: the greedy answer is chosen, a drawn one
    rejected. What both are worth, triage says.

    Args:
        number: of rounds in all; 1 = the run alone. It may be raised later: finished rounds stay.
        prompts: training prompts that a round answers at most, the first by hash; 0 = all.
        samples: answers drawn a prompt beside the greedy one. Of several that differ from it ``triage.judge`` says which is
            least likely to violate. One that ``evaluate.max_new_tokens`` cuts is none.
        temperature, top_p: with which they are drawn; seed: of that, and of which prompts come first.
    """

    number: int = resource(1)
    prompts: int = 0
    samples: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
