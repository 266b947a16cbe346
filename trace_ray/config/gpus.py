"""Who has how many GPUs: ``auto`` becomes a number once it is known where there are GPUs. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trace_ray.config.fields import AUTO
from trace_ray.config.judges import WITHOUT_MODEL, JudgeConfig
from trace_ray.config.tree import Config, TriageConfig

There = Callable[[Mapping[str, str]], bool]
"""Whether some node that a label selector admits has a GPU, or could have one."""
JUDGING = ("judge", "first_judge", "second_judge", "third_judge")
"""Settings of the judges that one actor holds while the corpus is judged."""
JUDGES = (*JUDGING, "corrector_judge")
READS_HERE = "vllm"
"""The backend whose model runs in the judge's own process."""


def engine_gpus(engine: Mapping[str, Any]) -> int:
    """Returns the GPUs that one vLLM engine with these arguments spreads over.

    >>> engine_gpus({"tensor_parallel_size": 4}), engine_gpus({})
    (4, 1)
    """
    return math.prod(int(engine.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline"))


def with_gpus(config: Config, there: There, stages: Sequence[str]) -> Config:
    """Returns the configuration with a number wherever it says ``auto``.

    Where there are GPUs a model gets what its engine spreads over, one as a rule; rules, endpoints and distilled judges
    get none.

    Args:
        stages: triage is looked at where it is among them, all else where any other is.
    """

    def judge(given: JudgeConfig) -> JudgeConfig:
        runs = given.backend == READS_HERE
        return replace(given, num_gpus=_number(given.num_gpus, given.label_selector, given.engine, there, runs=runs))

    triage, impact, realign, evaluate = config.triage, config.impact, config.realign, config.evaluate
    if "triage" in stages:
        judges: dict[str, Any] = {n: judge(given) for n in JUDGES if (given := getattr(triage, n)) is not None}
        config = replace(config, triage=replace(triage, **judges))
    if not {*stages} - {"triage", "report"}:
        return config
    trains = _number(realign.use_gpu, realign.label_selector, {}, there)
    answers = _number(evaluate.num_gpus, evaluate.label_selector, evaluate.engine, there)
    panel = [judge(given) for given in evaluate.panel]
    return replace(
        config,
        impact=replace(impact, num_gpus=_number(impact.num_gpus, impact.label_selector, {}, there)),
        realign=replace(realign, use_gpu=bool(trains)),
        evaluate=replace(evaluate, num_gpus=answers, judge=judge(evaluate.judge), panel=panel),
    )


def _number(
    given: float | str, labels: Mapping[str, str], engine: Mapping[str, Any], there: There, *, runs: bool = True
) -> float:
    if given != AUTO:
        return float(given)
    return float(engine_gpus(engine)) if runs and there(labels) else 0.0


def running_models(config: Config) -> Iterator[tuple[str, float | str, Mapping[str, str]]]:
    """Yields (setting, its value, label selector) of whatever runs a model in its own process."""
    triage, impact, realign, evaluate = config.triage, config.impact, config.realign, config.evaluate
    judges = {f"triage.{name}": getattr(triage, name) for name in JUDGES} | {"evaluate.judge": evaluate.judge}
    for name, judge in judges.items():
        if judge is not None and judge.backend == READS_HERE:
            yield f"{name}.num_gpus", judge.num_gpus, judge.label_selector
    yield "impact.num_gpus", impact.num_gpus, impact.label_selector
    yield "realign.use_gpu", realign.use_gpu, realign.label_selector
    yield "evaluate.num_gpus", evaluate.num_gpus, evaluate.label_selector


def of_stages(config: Config, stages: Sequence[str]) -> dict[str, float | str]:
    """Returns {setting: its value} of what runs a model in one of the stages."""
    return {name: value for name, value, _ in running_models(config) if name.partition(".")[0] in stages}


def idle_gpus(config: Config, stages: Sequence[str], there: There) -> dict[str, float | str]:
    """Returns {setting: its value} of what keeps a model of these stages on CPUs though there are GPUs for it."""
    return {
        name: value
        for name, value, labels in running_models(config)
        if name.partition(".")[0] in stages and value != AUTO and not value and there(labels)
    }


def in_two_passes(triage: TriageConfig) -> bool:
    """Returns whether a cascade's judges take turns, each in actors of its own: where both read.

    One that reads nothing (rules, a distilled one) costs no card and lives in the actors of the other.
    """
    first = triage.first_judge
    return first is not None and not {first.backend, triage.judge.backend} & set(WITHOUT_MODEL)


def judging_pools(triage: TriageConfig) -> dict[str, JudgeConfig]:
    """Returns {judge: how the actors of its pool are placed}, in the order in which the pools work.

    Judges of one pool live in the same actors and share the GPUs of the one that has most: ``second_judge`` and
    ``third_judge`` are with ``judge``, and so is a ``first_judge`` that has no pass of its own.
    """
    first = triage.first_judge
    if first is not None and in_two_passes(triage):
        return {"first_judge": first, "judge": _sharing(triage.judge, triage.second_judge, triage.third_judge)}
    return {"judge": _sharing(triage.judge, first, triage.second_judge, triage.third_judge)}


def strong_alone(triage: TriageConfig) -> TriageConfig:
    """Returns the settings of where the strong judge of two works without the first one: its pass, and corrections."""
    return replace(triage, first_judge=None) if in_two_passes(triage) else triage


def correcting_pool(triage: TriageConfig) -> JudgeConfig:
    """Returns how actors are placed that decide and have corrections written, which a cascade's strong judge reads alone."""
    strong = strong_alone(triage)
    return _sharing(strong.judge, strong.first_judge, strong.corrector_judge)


def _sharing(judge: JudgeConfig, *others: JudgeConfig | None) -> JudgeConfig:
    return replace(judge, num_gpus=max(each.gpus for each in (judge, *others) if each is not None))


WHOLE_CARD = 0.92
"""Of a card's memory, what engines take together: vLLM's own default for one."""
MEMORY = "gpu_memory_utilization"
EXECUTOR = "distributed_executor_backend"


def memory_shares(gpus: float, engines: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns {engine: arguments that say its part of a card} of engines that live in one actor.

    What engines say themselves holds; the others share evenly what these leave of the actor's part of a card.

    Args:
        gpus: the actor's; a fraction is a part of one card, none leaves it to the engine, which then runs on a CPU.
        engines: arguments by name.

    >>> memory_shares(1, {"judge": {}, "second": {}})
    {'judge': {'gpu_memory_utilization': 0.46}, 'second': {'gpu_memory_utilization': 0.46}}
    """
    said = {name: float(engine[MEMORY]) for name, engine in engines.items() if MEMORY in engine}
    left = WHOLE_CARD * min(1.0, gpus) - sum(said.values())
    others = max(1, len(engines) - len(said))
    share = math.floor(1000 * left / others + 1e-6) / 1000
    return {name: {MEMORY: said.get(name, share)} if gpus and (name in said or share > 0) else {} for name in engines}


def in_one_actor(triage: TriageConfig, *more: str) -> TriageConfig:
    """Returns the settings of judges that one actor holds, each with the actor's GPUs and its part of a card's memory.

    Args:
        more: settings of judges besides ``judge`` and ``first_judge``, such as second_judge.
    """
    named = {name: getattr(triage, name) for name in ("judge", "first_judge", *more)}
    judges = {name: judge for name, judge in named.items() if judge is not None and judge.backend == READS_HERE}
    if any(judge.num_gpus == AUTO for judge in judges.values()):  # nobody has resolved it: no cluster, no actor
        return triage
    gpus = max((judge.gpus for judge in judges.values()), default=0.0)
    shares = memory_shares(gpus, {name: judge.engine for name, judge in judges.items()})
    placed: dict[str, Any] = {
        name: replace(judge, num_gpus=gpus, engine=judge.engine | shares[name]) for name, judge in judges.items()
    }
    return replace(triage, **placed)


def alone(judge: JudgeConfig) -> JudgeConfig:
    """Returns the settings of a judge that is alone in its actor, with its part of a card's memory."""
    return replace(judge, engine=judge.engine | memory_shares(judge.gpus, {"": judge.engine})[""])
