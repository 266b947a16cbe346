"""The rounds after a run, one after the other: answers, then all stages on them. A call goes on where the last one ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trace_ray.config import Config
from trace_ray.errors import NothingToTrainError, inside
from trace_ray.rounds.own import Outcome
from trace_ray.rounds.settings import round_config
from trace_ray.runs.artifacts import ANSWERS, STAGES, Run
from trace_ray.runs.rounds import end_rounds, go_on, round_run
from trace_ray.runtime.progress import warn, within

RunStages = Callable[[Run, Config, Sequence[str]], None]
"""Runs stages of one round."""


def run_rounds(run: Run, config: Config, run_stages: RunStages) -> None:
    """Runs the rounds after the first, until ``rounds.number`` or until one finds nothing to train on.

    Args:
        run: done, with all its stages; config: its settings, with absolute model paths and dates.
    """
    for number in range(2, config.rounds.number + 1):
        further = round_run(run, number)
        with within(f"round {number}"):
            go_on(further)
            reason = _run_round(further, round_config(run, config, number), run_stages)
        if reason:
            end_rounds(further, reason)
            model = round_run(run, number - 1).model.place.uri
            warn(
                f"round {number}: nothing left to train on: {reason}; the model of round {number - 1} is the last: {model}"
            )
            return


def _run_round(further: Run, config: Config, run_stages: RunStages) -> str:
    """Returns why there is nothing to train on, empty where there was."""
    run_stages(further, config, [ANSWERS])
    counts = further.answers.manifest()["counts"]
    if not counts[Outcome.PAIR]:
        return f"of {counts['prompts']} prompts none has a drawn answer that differs from the greedy one"
    try:
        run_stages(further, config, STAGES)
    except Exception as error:
        found = next((cause for cause in inside(error) if isinstance(cause, NothingToTrainError)), None)
        if found is None:
            raise
        return f"{found.where}: {found.seen}"
    return ""
