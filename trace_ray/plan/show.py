"""The plan as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from trace_ray.config import Config
from trace_ray.plan.estimate import StageEstimate, total
from trace_ray.plan.plan import Plan
from trace_ray.plan.rates import Rates
from trace_ray.plan.workload import Workload


def plan_tables(plan: Plan, config: Config) -> list[Table]:
    """Returns what the corpus holds, what was measured, and the stages; only what is known."""
    tables = [_corpus(plan.load, plan.sampled)] if plan.load else []
    tables += [_rates(plan.rates, measured=config.plan.measure)] if plan.rates else []
    return tables + ([_stages(plan.stages, config)] if plan.stages else [])


def _corpus(load: Workload, sampled: int) -> Table:
    table = Table("rows", "refused", "INVERT", "PUNISH", "RETAIN", "held-out prompts", "tokens to train on")
    table.title, table.title_justify = f"Corpus, from a sample of {sampled} pairs", "left"
    figures = [load.rows, load.refused, *(load.trained[name] for name in ("INVERT", "PUNISH", "RETAIN"))]
    table.add_row(*(f"{number:,}" for number in [*figures, load.prompts, load.policy_tokens]))
    return table


def _rates(rates: Rates, *, measured: bool) -> Table:
    table = Table("piece", "start, s", "tokens/s", "GiB")
    table.title, table.title_justify = "Measured here" if measured else "Given", "left"
    for name, engine in (("triage judge", rates.judge), ("evaluation judge", rates.evaluation_judge)):
        if engine:
            table.add_row(name, f"{engine.start_s:.0f}", f"{engine.prompt_tokens_s:,.0f}", f"{engine.memory_gib:.1f}")
    policy, train = rates.policy, rates.train
    table.add_row("answers", f"{policy.start_s:.0f}", f"{policy.answer_tokens_s:,.0f}", f"{policy.memory_gib:.1f}")
    table.add_row("forward", f"{train.start_s:.0f}", f"{train.forward_tokens_s:,.0f}", f"{train.memory_gib:.1f}")
    table.add_row("training", f"{train.start_s:.0f}", f"{train.train_tokens_s:,.0f}", f"{train.train_gib:.1f}")
    return table


def _stages(stages: list[StageEstimate], config: Config) -> Table:
    plan = config.plan
    priced, gpus = bool(plan.cpu_hour_price or plan.gpu_hour_price), any(s.gpu_hours for s in stages)
    heads = ["stage", "work", "tokens", "workers", "time", "memory, GiB", "CPU-hours"]
    table = Table(*heads, *(["GPU-hours"] if gpus else []), *(["price"] if priced else []))
    table.title, table.title_justify = "Estimate", "left"

    def row(name: str, figures: list[str], cpu: float | None, gpu: float | None, price: float | None) -> None:
        costs = [cpu, *([gpu] if gpus else []), *([price] if priced else [])]
        table.add_row(name, *figures, *("-" if cost is None else f"{cost:.2f}" for cost in costs))

    for s in stages:
        time = "?" if s.seconds is None else clock(s.seconds)
        figures = [s.work, f"{s.tokens:,}", str(s.workers), time, f"{s.memory_gib:.1f}"]
        row(s.stage, figures, s.cpu_hours, s.gpu_hours, s.price)
    sums = [total(stages, of) for of in (lambda s: s.cpu_hours, lambda s: s.gpu_hours, lambda s: s.price)]
    figures = ["", f"{sum(s.tokens for s in stages):,}", "", clock(total(stages, lambda s: s.seconds))]
    figures += [f"{max(s.memory_gib for s in stages):.1f}"]
    unknown = ", ".join(s.stage for s in stages if s.seconds is None)
    row(f"all but {unknown}" if unknown else "all", figures, *sums)
    if unknown:
        table.caption, table.caption_justify = f"{unknown}: not estimated: set plan.judge_tokens_s", "left"
    return table


def clock(seconds: float) -> str:
    """Returns hours, minutes and seconds.

    >>> [clock(s) for s in (59.6, 3661)]
    ['0:01:00', '1:01:01']
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
