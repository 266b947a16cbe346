"""How long judges take for what they are asked, and what their actors hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trace_ray.config import JudgeConfig
from trace_ray.config.judges import WITHOUT_MODEL
from trace_ray.plan.asked import Asked
from trace_ray.plan.rates import BARE_GIB, Rates

RULES_RESPONSES_S = 10_000.0
POOL_START_S = 3.0
"""A pool of actors on a Ray that is up, as seen on 2 cores."""


def in_words(asked: Sequence[Asked]) -> str:
    """Returns how much is asked, for the table's column of work."""
    at_most = "at most " if any(asking.bound for asking in asked) else ""
    return f", {at_most}{sum(asking.prompts for asking in asked):,} questions to judges"


def pool_time(
    asked: Sequence[Asked], held: Sequence[str], rates: Rates, judges: Mapping[str, JudgeConfig], workers: int
) -> tuple[float | None, float]:
    """(Seconds, GiB) of a pool each of whose actors holds some judges; no seconds where one's speed is not known.

    Args:
        held: names of the judges that each actor holds; judges: {name: judge} of those that are asked, at least.
    """
    engines = [rates.judges[name] for name in held if name in rates.judges]
    memory = sum(engine.memory_gib for engine in engines) if engines else BARE_GIB
    seconds = [_judging(asking, rates, judges[asking.judge]) for asking in asked]
    known = [each for each in seconds if each is not None]
    if len(known) < len(seconds):
        return None, memory * workers
    return sum(engine.start_s for engine in engines) + sum(known) / workers, memory * workers


def _judging(asked: Asked, rates: Rates, judge: JudgeConfig) -> float | None:
    """Seconds that one actor takes for a kind of question."""
    engine = rates.judges.get(asked.judge)
    if judge.backend in WITHOUT_MODEL:
        return asked.prompts / RULES_RESPONSES_S
    if engine is None or (asked.written and not engine.answer_tokens_s):
        return None
    return asked.tokens / engine.prompt_tokens_s + (asked.written and asked.written / engine.answer_tokens_s)
