"""How fast the pieces are: measured on this machine or given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from trace_ray.config import Config, PlanConfig
from trace_ray.errors import UserError
from trace_ray.plan.judges import reading_judges

GIB = 2**30
SCORE_FORWARDS = 2.4
"""Cost of a score in forwards of the same tokens, where only these are given (trace_ray/impact/README.md)."""
BARE_GIB = 0.3
"""An actor that holds no model: rules, or an endpoint's."""


@dataclass(frozen=True, kw_only=True)
class EngineRates:
    """A vLLM engine of one actor.

    Args:
        start_s: from the start of its process to the first answer; memory_gib: its peak.
        prompt_tokens_s: one-token verdicts, tokens of whole prompts a second, prefix cache included.
        answer_tokens_s: greedy generation, new tokens a second; 0 = not known: of a judge that writes no corrections.
        answer_tokens: mean length of the answers seen; 0 = not measured.
    """

    start_s: float
    memory_gib: float
    prompt_tokens_s: float
    answer_tokens_s: float
    answer_tokens: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainRates:
    """The policy model, with its adapter or trained in full, in one worker, in unpadded tokens a second.

    Args:
        start_s: from the start of a process to the loaded model.
        forward_tokens_s: no-grad forward; train_tokens_s: forward and backward.
        memory_gib: peak of the forward; train_gib: of forward and backward, without an optimizer.
        parameters: of the model; trained: those of them that have a gradient; 0 = not measured.
    """

    start_s: float
    forward_tokens_s: float
    train_tokens_s: float
    memory_gib: float
    train_gib: float
    parameters: int = 0
    trained: int = 0


@dataclass(frozen=True, kw_only=True)
class ScoringRates:
    """Stage 2 in one worker.

    Args:
        tokens_s: scored, prompts counted with each response; gold_tokens_s: of the gold batch's gradient.
        peak_gib: of both.
    """

    tokens_s: float
    gold_tokens_s: float
    peak_gib: float


NO_ENGINE = EngineRates(start_s=0, memory_gib=0, prompt_tokens_s=0, answer_tokens_s=0)
NO_TRAINING = TrainRates(start_s=0, forward_tokens_s=0, train_tokens_s=0, memory_gib=0, train_gib=0)
NO_SCORING = ScoringRates(tokens_s=0, gold_tokens_s=0, peak_gib=0)
"""What no stage that is planned runs."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Everything an estimate needs to know.

    Args:
        judges: {judge's setting: its rates}, without rules and without endpoints whose speed nobody gave.
    """

    judges: Mapping[str, EngineRates]
    policy: EngineRates
    train: TrainRates
    scoring: ScoringRates


def with_given(rates: Rates, config: Config) -> Rates:
    """Returns the rates with those that ``plan`` gives in place of the measured ones."""
    plan = config.plan
    policy = replace(rates.policy, answer_tokens_s=plan.answer_tokens_s or rates.policy.answer_tokens_s)
    train = replace(
        rates.train,
        forward_tokens_s=plan.forward_tokens_s or rates.train.forward_tokens_s,
        train_tokens_s=plan.train_tokens_s or rates.train.train_tokens_s,
    )
    scoring = rates.scoring
    if plan.forward_tokens_s:
        scoring = replace(scoring, tokens_s=plan.forward_tokens_s / SCORE_FORWARDS)
    if plan.train_tokens_s:
        scoring = replace(scoring, gold_tokens_s=plan.train_tokens_s)
    judges = {
        name: replace(
            known,
            prompt_tokens_s=plan.judge_tokens_s or known.prompt_tokens_s,
            answer_tokens_s=plan.answer_tokens_s or known.answer_tokens_s,
        )
        for name, judge in reading_judges(config).items()
        if (known := _endpoint_rates(plan) if judge.backend == "openai" else rates.judges.get(name))
    }
    return replace(rates, judges=judges, policy=policy, train=train, scoring=scoring)


def _endpoint_rates(plan: PlanConfig) -> EngineRates | None:
    if not plan.judge_tokens_s:
        return None
    return EngineRates(
        start_s=0.0,
        memory_gib=BARE_GIB,
        prompt_tokens_s=plan.judge_tokens_s,
        answer_tokens_s=plan.answer_tokens_s,
    )


STARTS_S = {"engine": 120.0, "train": 60.0}
"""Assumed where nothing is measured: engines of large models on a GPU take minutes to load and compile."""


def given(config: Config) -> Rates:
    """Returns the rates that ``plan`` gives, with assumed starts and no memory.

    Raises: UserError naming every rate that is missing.
    """
    plan = config.plan
    needed = ["answer_tokens_s", "forward_tokens_s", "train_tokens_s"]
    engines = [name for name, judge in reading_judges(config).items() if judge.backend == "vllm"]
    needed += ["judge_tokens_s"] if engines else []
    missing = [f"plan.{name}" for name in needed if not getattr(plan, name)]
    if missing:
        raise UserError("plan.measure", False, f"give {', '.join(missing)}, or let plan.measure=true time them here")
    engine = EngineRates(
        start_s=STARTS_S["engine"],
        memory_gib=0.0,
        prompt_tokens_s=plan.judge_tokens_s,
        answer_tokens_s=plan.answer_tokens_s,
    )
    return Rates(
        judges=dict.fromkeys(engines, engine),
        policy=engine,
        train=TrainRates(
            start_s=STARTS_S["train"],
            forward_tokens_s=plan.forward_tokens_s,
            train_tokens_s=plan.train_tokens_s,
            memory_gib=0.0,
            train_gib=0.0,
        ),
        scoring=ScoringRates(
            tokens_s=plan.forward_tokens_s / SCORE_FORWARDS, gold_tokens_s=plan.train_tokens_s, peak_gib=0.0
        ),
    )


def peak_gib() -> float:
    """Returns the most memory this process has held so far. Source: VmHWM of proc(5)."""
    return _status_bytes("VmHWM") / GIB


def held_bytes() -> int:
    """Returns the memory this process holds now. Source: VmRSS of proc(5)."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
