"""What is wrong with GPUs and the engines that are to run on them, as far as settings alone tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trace_ray.config.fields import AUTO
from trace_ray.config.gpus import (
    EXECUTOR,
    JUDGES,
    JUDGING,
    MEMORY,
    READS_HERE,
    WHOLE_CARD,
    engine_gpus,
    strong_alone,
)
from trace_ray.config.tree import Config, TriageConfig
from trace_ray.errors import UserError

_SPREADS = ("tensor_parallel_size", "pipeline_parallel_size")


def gpu_problems(config: Config) -> Iterator[UserError]:
    """Yields engines whose GPUs are not those of their actor, actors whose engines ask for more than a card, and idle cards."""
    evaluate, triage = config.evaluate, config.triage
    judges = {f"triage.{name}": getattr(triage, name) for name in JUDGES} | {"evaluate.judge": evaluate.judge}
    judges |= {f"evaluate.panel[{i}]": judge for i, judge in enumerate(evaluate.panel)}
    for name, judge in judges.items():
        if judge is not None and judge.backend == READS_HERE:
            yield from _spread(name, judge.num_gpus, judge.engine)
    yield from _spread("evaluate", evaluate.num_gpus, evaluate.engine)
    if not isinstance(config.impact.num_gpus, str) and config.impact.num_gpus > 1:
        remedy = (
            "a scoring actor runs its model on one card: give 1, a share of one, or auto; more cards get more actors"
        )
        yield UserError("impact.num_gpus", config.impact.num_gpus, remedy)
    yield from _crowded(strong_alone(triage), JUDGING)
    yield from _crowded(strong_alone(triage), ("judge", "first_judge", "corrector_judge"))


def _spread(where: str, gpus: float | str, engine: Mapping[str, Any]) -> Iterator[UserError]:
    sizes = {name: engine[name] for name in _SPREADS if name in engine}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            yield UserError(f"{where}.engine.{name}", size, "give a number of GPUs, at least 1")
            return
    if isinstance(gpus, str) or engine.get(EXECUTOR) == "ray":  # whose workers are placed by vLLM, each with a GPU
        return
    needed = engine_gpus(engine)
    if needed > 1 and gpus != needed:
        name, size = max(sizes.items(), key=lambda item: item[1])
        remedy = f"the engine runs on {needed} GPUs, its actor has {gpus:g}: give {where}.num_gpus={needed}, or {AUTO}"
        yield UserError(f"{where}.engine.{name}", size, remedy)
    elif gpus > needed:
        remedy = f"its engine runs on one: give {where}.engine.tensor_parallel_size={gpus:g} too, or 1"
        yield UserError(f"{where}.num_gpus", gpus, remedy)


def _crowded(triage: TriageConfig, together: Sequence[str]) -> Iterator[UserError]:
    """Args: together: the judges that one actor holds."""
    named = {name: getattr(triage, name) for name in together}
    engines = {n: judge.engine for n, judge in named.items() if judge is not None and judge.backend == READS_HERE}
    said = {name: engine[MEMORY] for name, engine in engines.items() if MEMORY in engine}
    wrong = [name for name, share in said.items() if isinstance(share, bool) or not isinstance(share, int | float)]
    for name in wrong:
        yield UserError(f"triage.{name}.engine.{MEMORY}", said[name], "give a share of a card in (0, 1]")
    if wrong or not said:
        return
    rest = sorted(engines.keys() - said)
    if sum(said.values()) > (WHOLE_CARD - 0.01 if rest else 1):
        largest = max(said, key=lambda name: float(said[name]))
        others = " and ".join(f"triage.{name}" for name in engines if name != largest)
        remedy = f"it shares an actor's card with {others}: give less, or leave the shares of all of them out"
        if others:
            yield UserError(f"triage.{largest}.engine.{MEMORY}", said[largest], remedy)
