"""What the endpoints of a triage's judges may still use, shared out among its actors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.errors import UserError
from trace_ray.judges.spend import COUNTED_AS


def within_budget(
    triage: TriageConfig, spent: Mapping[str, int], asked: Iterable[str], actors: int = 0
) -> TriageConfig:
    """Returns the settings with each actor's share of what the endpoints of the judges ``asked`` may still use.

    Args:
        spent: what was used so far, under the names of the judges' counts.
        actors: that ask; 0 = ``triage.judge.max_actors``.
    Raises: UserError where nothing is left to one of them.
    """
    judges: dict[str, Any] = {}
    for name in asked:
        judge: JudgeConfig | None = getattr(triage, name)
        if judge is None:
            continue
        shares = {}
        for setting, used in (("max_requests", "requests"), ("max_tokens", "endpoint_tokens")):
            limit, gone = getattr(judge.endpoint, setting), spent.get(f"{COUNTED_AS[name]}{used}", 0)
            if limit and gone >= limit:
                remedy = f"{gone} used so far; raise it and run the same command again"
                raise UserError(f"triage.{name}.endpoint.{setting}", limit, remedy)
            if limit:
                shares[setting] = -(-(limit - gone) // (actors or triage.judge.max_actors))
        judges[name] = replace(judge, endpoint=replace(judge.endpoint, **shares))
    return replace(triage, **judges)
