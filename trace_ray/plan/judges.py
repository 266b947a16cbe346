"""Which judges a configuration really uses, by the name of their setting."""

from __future__ import annotations

from trace_ray.config import Config, JudgeConfig
from trace_ray.config.check import triage_judges
from trace_ray.config.judges import WITHOUT_MODEL
from trace_ray.judges.backends import corrector_kind

JUDGE, FIRST, SECOND, THIRD = "triage.judge", "triage.first_judge", "triage.second_judge", "triage.third_judge"
CORRECTOR, EVALUATION, PANEL = "triage.corrector_judge", "evaluate.judge", "evaluate.panel"


def used_judges(config: Config) -> dict[str, JudgeConfig]:
    """Returns {setting's name: judge}: those of triage, the evaluation's, the panel's."""
    named = triage_judges(config.triage)
    if writer(config) != CORRECTOR:  # it is given, but gold responses or nothing at all take its place
        named.pop(CORRECTOR, None)
    named[EVALUATION] = config.evaluate.judge
    return named | {f"{PANEL}[{i}]": judge for i, judge in enumerate(config.evaluate.panel)}


def reading_judges(config: Config) -> dict[str, JudgeConfig]:
    """Returns those of ``used_judges`` that read: all but rules."""
    return {name: judge for name, judge in used_judges(config).items() if judge.backend not in WITHOUT_MODEL}


def writer(config: Config) -> str:
    """Returns the judge that writes corrections; empty where code or people do, or nobody."""
    match corrector_kind(config.policy, config.triage):
        case "other" | "sample":
            return CORRECTOR
        case "judge" if config.triage.judge.backend != "rules":
            return JUDGE
    return ""
