"""`trace-ray plan`: what a run takes, and every problem at once, before anything starts."""

from __future__ import annotations

from typing import Annotated

import typer

from trace_ray.cli.options import AsJson, Files, Method, Overrides
from trace_ray.cli.output import standard_output, tell_problems
from trace_ray.config.check import config_problems
from trace_ray.config.load import read_config
from trace_ray.errors import UserError, nearest
from trace_ray.runs.artifacts import STAGES
from trace_ray.runtime.progress import CONSOLE


def plan(
    config: Files,
    overrides: Overrides = None,
    method: Method = None,
    run: Annotated[
        str | None, typer.Option("--run", help="check that this folder can be written to, or goes on")
    ] = None,
    stages: Annotated[str, typer.Option("--stages", help="only these, such as triage or impact,realign")] = "",
    as_json: AsJson = False,
) -> None:
    """Rows, tokens, hours, memory and price before anything starts, and every problem at once."""
    from trace_ray.pipeline import absolute_models
    from trace_ray.plan.plan import make_plan
    from trace_ray.plan.show import plan_tables

    wanted = _stages(stages)
    settings = absolute_models(read_config(config, overrides or [], method))
    if wrong := config_problems(settings):
        tell_problems(wrong, {"problems": [str(mistake) for mistake in wrong]} if as_json else None)
    made = make_plan(settings, run, lambda piece: CONSOLE.print(f"measuring: {piece}"), wanted)
    if not as_json:
        for table in plan_tables(made, settings):
            standard_output().print(table)
    tell_problems(made.problems, made.as_json() if as_json else None)


def _stages(text: str) -> list[str]:
    """Returns the stages that a list names, in their order; an empty one stands for all."""
    named = [name.strip() for name in text.split(",")] if text else list(STAGES)
    for name in named:
        if name not in STAGES:
            raise UserError("--stages", name, f"use some of {', '.join(STAGES)}{nearest(name, STAGES)}")
    return [stage for stage in STAGES if stage in named]
