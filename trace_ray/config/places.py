"""Models in local folders by their whole address."""

from __future__ import annotations

import os
from dataclasses import replace

from trace_ray.config.judges import JudgeConfig
from trace_ray.config.tree import Config


def absolute_models(config: Config) -> Config:
    """Returns the configuration with absolute paths for models in local folders: workers run in other folders."""

    def absolute(path: str) -> str:
        return os.path.abspath(path) if path and os.path.isdir(path) else path

    def found(judge: JudgeConfig) -> JudgeConfig:
        return replace(judge, model=absolute(judge.model))

    def perhaps(judge: JudgeConfig | None) -> JudgeConfig | None:
        return found(judge) if judge is not None else None

    triage, evaluate = config.triage, config.evaluate
    capability = replace(evaluate.capability, task_folder=absolute(evaluate.capability.task_folder))
    panel = [found(judge) for judge in evaluate.panel]
    return replace(
        config,
        model=replace(config.model, path=absolute(config.model.path)),
        triage=replace(
            triage,
            judge=found(triage.judge),
            first_judge=perhaps(triage.first_judge),
            second_judge=perhaps(triage.second_judge),
            third_judge=perhaps(triage.third_judge),
            corrector_judge=perhaps(triage.corrector_judge),
        ),
        evaluate=replace(evaluate, judge=found(evaluate.judge), capability=capability, panel=panel),
    )
