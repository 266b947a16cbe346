"""trace-ray: realign a language model to a new policy from the preference pairs it was aligned on.

What other programs may build on stands here, imported when it is first asked for; everything else may move::

    from trace_ray import Stage, load_config, open_run, run_stages

    config = load_config(["my.yaml"], ["realign.epochs=2"], method="trace")
    run = open_run("runs/first", config)
    run_stages(run, config, [Stage.TRIAGE, Stage.IMPACT], lambda stage, state: print(stage, state))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_ray.config import Config
    from trace_ray.config.load import load_config
    from trace_ray.errors import UserError
    from trace_ray.pipeline import open_run, run_stages
    from trace_ray.runs.artifacts import Run
    from trace_ray.runs.stages import Stage

__version__ = "0.1.0"
__all__ = ["Config", "Run", "Stage", "UserError", "load_config", "open_run", "run_stages"]

_HOMES = {
    "Config": "trace_ray.config",
    "Run": "trace_ray.runs.artifacts",
    "Stage": "trace_ray.runs.stages",
    "UserError": "trace_ray.errors",
    "load_config": "trace_ray.config.load",
    "open_run": "trace_ray.pipeline",
    "run_stages": "trace_ray.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
