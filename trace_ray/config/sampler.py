"""Corrections drawn from the model that is realigned (``triage.corrector: sample``): whose model that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from trace_ray.config.judges import JudgeConfig
from trace_ray.config.tree import Config
from trace_ray.errors import UserError

SETTING = "triage.corrector_judge"
_OF_MODEL = ("revision", "trust_remote_code", "dtype", "chat_template", "chat_template_kwargs", "chat_template_date")


def with_sampler(config: Config) -> Config:
    """Returns the configuration with ``triage.corrector_judge`` drawing from ``model``, where corrections are its own.

    What is given there says how answers are drawn and where its actors run; its model and template are those of ``model``.
    """
    triage, model = config.triage, config.model
    if not (triage.correct and triage.corrector == "sample"):
        return config
    given = triage.corrector_judge or JudgeConfig()
    same = {name: getattr(model, name) for name in _OF_MODEL}
    return replace(
        config, triage=replace(triage, corrector_judge=replace(given, model=given.model or model.path, **same))
    )


def sampler_problems(config: Config) -> Iterator[UserError]:
    """Yields what corrections of the model's own are at odds with."""
    triage, judge = config.triage, config.triage.corrector_judge
    if judge is None or not triage.correct or triage.corrector != "sample":
        return
    if not config.model.path:
        yield UserError("model.path", "empty", "triage.corrector=sample draws answers of it: name it")
    if judge.backend != "vllm":
        remedy = "corrector=sample draws answers of the model in vLLM: leave it out"
        yield UserError(f"{SETTING}.backend", judge.backend, remedy)
    if judge.model != config.model.path:
        remedy = "corrector=sample draws answers of model.path: leave it out, or set triage.corrector=auto"
        yield UserError(f"{SETTING}.model", judge.model, remedy)
    if judge.temperature == 0 and judge.samples > 1:
        remedy = f"{judge.samples} answers would all be the same: raise it, or set {SETTING}.samples=1"
        yield UserError(f"{SETTING}.temperature", judge.temperature, remedy)
