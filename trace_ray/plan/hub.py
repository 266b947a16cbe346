"""Models on a hub: asked for once, before anything that would ask again and again."""

from __future__ import annotations

import os
from collections.abc import Sequence

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.plan.judges import reading_judges
from trace_ray.plan.preflight import OF_THE_MODEL
from trace_ray.runtime.passing import answered

PATIENCE_S = 5.0


def unreached(config: Config, stages: Sequence[str]) -> UserError | None:
    """Returns the problem where models of the stages are on a hub that does not answer, and this machine has no copy.

    With copies of them all the hub is not asked again: offline is what its client is told.
    """
    models = _on_a_hub(config, stages)
    if not models:
        return None
    from huggingface_hub import constants, get_session, try_to_load_from_cache

    missing = [
        f"{setting}={path}"
        for (path, revision), setting in models.items()
        if not isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str)
    ]
    if constants.HF_HUB_OFFLINE:
        return None  # asked for: whoever loads a model says which one is not here
    if answered(lambda: get_session().head(constants.ENDPOINT, timeout=PATIENCE_S)) is not None:
        return None
    if missing:
        remedy = "the hub does not answer, and they are not on this machine: name folders, or come back online"
        return UserError(constants.ENDPOINT, ", ".join(missing), remedy)
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for the processes that measure
    return None


def _on_a_hub(config: Config, stages: Sequence[str]) -> dict[tuple[str, str], str]:
    """Returns {(hub id, revision): the first setting that names it} of the models that the stages load."""
    judges = reading_judges(config)
    named = [
        (name, judge.model, judge.revision)
        for name, judge in judges.items()
        if judge.backend == "vllm" and name.partition(".")[0] in stages
    ]
    if set(OF_THE_MODEL) & set(stages):
        named.append(("model", config.model.path, config.model.revision))
    found: dict[tuple[str, str], str] = {}
    for name, path, revision in named:
        if path and not path.startswith(("s3://", "/", ".", "~")) and not os.path.exists(path):
            setting = "model.path" if name == "model" else f"{name}.model"
            found.setdefault((path, revision), setting)
    return found
