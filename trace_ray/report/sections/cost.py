"""What each stage cost: seconds, tokens, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trace_ray.runs.artifacts import Artifact, Run
from trace_ray.runs.figures import training_figures
from trace_ray.runs.memory import recorded_peak
from trace_ray.runtime.metrics import judge_tokens


@dataclass(frozen=True)
class StageCost:
    """One stage's cost; tokens and memory are None where they were not recorded."""

    stage: str
    rows: int
    rows_are: str
    seconds: float
    tokens: int | None
    peak_gib: float | None

    @property
    def rate(self) -> float | None:
        """Returns tokens a second, starting up included."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None


@dataclass(frozen=True)
class CostSection:
    """The stages that are done, in order.

    Args:
        worker_gib: peak memory of one training worker, wherever it ran; None where none was recorded.
        endpoints: what triage's endpoints were asked (``judges.spend.Spend``); None without any.
    """

    stages: list[StageCost]
    worker_gib: float | None
    endpoints: Mapping[str, Any] | None = None

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def tokens(self) -> int:
        return sum(stage.tokens or 0 for stage in self.stages)

    @property
    def counted(self) -> list[str]:
        """Returns the stages that recorded tokens."""
        return [stage.stage for stage in self.stages if stage.tokens is not None]


def cost_section(run: Run) -> CostSection:
    """Returns the cost of every finished stage; model/ holds the seconds of training and export together."""
    stages: list[StageCost] = []
    endpoints = run.triaged.manifest().get("endpoints") if run.triaged.done() else None
    if run.triaged.done():
        m = run.triaged.manifest()
        stages.append(_stage("triage", run.triaged, m["counts"]["rows_in"], "rows read", judge_tokens(m["used"])))
    if run.scored.done():
        m = run.scored.manifest()
        trained = sum(number for name, number in m["counts"].items() if name != "untrained")
        stages.append(_stage("impact", run.scored, trained, "pairs kept", _impact_tokens(run.impact)))
    if run.model.done():
        trained_on = run.realign.manifest()
        stages.append(_stage("realign", run.model, trained_on["counts"]["steps"], "steps", trained_on["tokens"]))
    if run.evaluation.done():
        m = run.evaluation.manifest()
        stages.append(_stage("evaluate", run.evaluation, m["counts"]["responses"], "answers", m.get("tokens")))
    return CostSection(stages, _worker_gib(run), endpoints)


def _worker_gib(run: Run) -> float | None:
    rows = training_figures(run)
    return max((row["memory_gib"] for row in rows if "memory_gib" in row), default=None)


def _impact_tokens(impact: Artifact) -> int | None:
    tokens: int | None = impact.manifest()["response_tokens"] if impact.done() else None
    return tokens


def _stage(name: str, artifact: Artifact, rows: int, rows_are: str, tokens: int | None) -> StageCost:
    return StageCost(name, rows, rows_are, artifact.manifest()["seconds"], tokens, _peak_gib(artifact))


def _peak_gib(artifact: Artifact) -> float | None:
    """What the pipeline recorded of the stage's processes beside the artefact."""
    peak = recorded_peak(artifact.place)
    return None if peak is None else peak / 2**30


def duration(seconds: float) -> str:
    """Returns seconds as people say them.

    >>> [duration(s) for s in (7.4, 204, 7260)]
    ['7 s', '3 min 24 s', '2 h 1 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
