"""The plan as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from trace_ray.config import Config
from trace_ray.plan.asked import Asked
from trace_ray.plan.cards import GIB, CardUse
from trace_ray.plan.judges import used_judges
from trace_ray.plan.plan import Plan
from trace_ray.plan.rates import Rates
from trace_ray.plan.stage_row import StageEstimate, total
from trace_ray.plan.workload import Workload


def plan_tables(plan: Plan, config: Config) -> list[Table]:
    """Returns what the corpus holds, what was measured, and the stages; only what is known."""
    tables = [_corpus(plan.load, plan.sampled)] if plan.load else []
    tables += [_rates(plan.rates, measured=config.plan.measure)] if plan.rates else []
    asked = [asking for stage in plan.stages for asking in stage.asked]
    tables += [_asked(asked)] if asked else []
    tables += [_cards(plan.cards)] if plan.cards else []
    return tables + ([_stages(plan.stages, config)] if plan.stages else [])


def _cards(cards: Sequence[CardUse]) -> Table:
    table = Table("stage", "tokens at once", "held, GiB", "MiB a token", "in all, GiB", "card, GiB")
    table.title, table.title_justify = "Memory of a GPU, by the model's shape", "left"
    for use in cards:
        tokens = f"{use.tokens:,}{' (auto)' if isinstance(use.asked, str) else ''}"
        sizes = [use.fixed / GIB, use.a_token / 2**20, use.needed / GIB, use.card / GIB]
        table.add_row(use.stage, tokens, *(f"{size:.1f}" for size in sizes))
    return table


def _corpus(load: Workload, sampled: int) -> Table:
    table = Table("rows", "refused", "INVERT", "PUNISH", "RETAIN", "prompts to answer", "tokens to train on")
    table.title, table.title_justify = f"Corpus, from a sample of {sampled} pairs", "left"
    figures = [load.rows, load.refused, *(load.trained[name] for name in ("INVERT", "PUNISH", "RETAIN"))]
    table.add_row(*(f"{number:,}" for number in [*figures, load.prompts.number, load.policy_tokens]))
    return table


def _rates(rates: Rates, *, measured: bool) -> Table:
    table = Table("piece", "start, s", "tokens/s", "GiB")
    table.title, table.title_justify = "Measured here" if measured else "Given", "left"
    for name, engine in rates.judges.items():
        table.add_row(name, f"{engine.start_s:.0f}", f"{engine.prompt_tokens_s:,.0f}", f"{engine.memory_gib:.1f}")
    policy, train, scoring = rates.policy, rates.train, rates.scoring
    if policy.prompt_tokens_s == train.train_tokens_s == scoring.tokens_s == 0:  # no stage of the model is planned
        return table
    table.add_row("answers", f"{policy.start_s:.0f}", f"{policy.answer_tokens_s:,.0f}", f"{policy.memory_gib:.1f}")
    table.add_row("forward", f"{train.start_s:.0f}", f"{train.forward_tokens_s:,.0f}", f"{train.memory_gib:.1f}")
    table.add_row("scoring", "", f"{scoring.tokens_s:,.0f}", f"{scoring.peak_gib:.1f}")
    table.add_row("training", f"{train.start_s:.0f}", f"{train.train_tokens_s:,.0f}", f"{train.train_gib:.1f}")
    return table


def _asked(asked: Sequence[Asked]) -> Table:
    table = Table("judge", "question", "prompts", "tokens read", "written", "counted")
    table.title, table.title_justify = "Questions to judges", "left"
    for asking in asked:
        figures = [f"{number:,}" for number in (asking.prompts, asking.tokens, asking.written)]
        table.add_row(asking.judge, asking.what, *figures, asking.bound or "expected")
    return table


def _stages(stages: list[StageEstimate], config: Config) -> Table:
    plan = config.plan
    priced, gpus = bool(plan.cpu_hour_price or plan.gpu_hour_price), any(s.gpu_hours for s in stages)
    heads = ["stage", "work", "tokens", "workers", "time", "memory, GiB", "CPU-hours"]
    asked = any(s.endpoints for s in stages)
    more = {"GPU-hours": gpus, "price": priced, "endpoints": asked}
    table = Table(*heads, *(head for head, shown in more.items() if shown))
    table.title, table.title_justify = "Estimate", "left"

    def row(name: str, figures: list[str], cpu: float | None, *others: float | None) -> None:
        costs = [cpu, *(cost for cost, shown in zip(others, more.values(), strict=True) if shown)]
        table.add_row(name, *figures, *("-" if cost is None else f"{cost:.2f}" for cost in costs))

    for s in stages:
        time = "?" if s.seconds is None else clock(s.seconds)
        figures = [s.work, f"{s.tokens:,}", str(s.workers), time, f"{s.memory_gib:.1f}"]
        row(s.stage, figures, s.cpu_hours, s.gpu_hours, s.price, s.endpoints)
    hours = (lambda s: s.cpu_hours, lambda s: s.gpu_hours)
    sums = [total(stages, of) for of in (*hours, lambda s: s.price, lambda s: s.endpoints)]
    figures = ["", f"{sum(s.tokens for s in stages):,}", "", clock(total(stages, lambda s: s.seconds))]
    figures += [f"{max(s.memory_gib for s in stages):.1f}"]
    unknown = ", ".join(s.stage for s in stages if s.seconds is None)
    row(f"all but {unknown}" if unknown else "all", figures, *sums)
    said = [f"{unknown}: not estimated: set {_missing(stages, config)}"] if unknown else []
    said += [f"{s.stage}: without {s.left_out}, whose work is not estimated" for s in stages if s.left_out]
    rounds = config.rounds.number
    said += (
        [f"rounds.number={rounds}: each further round is about as much again, and its answers"] if rounds > 1 else []
    )
    price = f"ray.max_cost={2 * rounds * sums[2]:.3g} would end the run at twice this price"
    said += [price + (", all rounds counted" if rounds > 1 else "")] if priced and sums[2] else []
    table.caption, table.caption_justify = "\n".join(said) or None, "left"
    return table


def _missing(stages: Sequence[StageEstimate], config: Config) -> str:
    """Returns the rates of endpoints without which a stage has no time."""
    asked = [asking for stage in stages if stage.seconds is None for asking in stage.asked]
    needed = [] if config.plan.judge_tokens_s else ["plan.judge_tokens_s"]
    writing = any(asking.written and used_judges(config)[asking.judge].backend == "openai" for asking in asked)
    return " and ".join([*needed, *(["plan.answer_tokens_s"] if writing and not config.plan.answer_tokens_s else [])])


def clock(seconds: float) -> str:
    """Returns hours, minutes and seconds.

    >>> [clock(s) for s in (59.6, 3661)]
    ['0:01:00', '1:01:01']
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
