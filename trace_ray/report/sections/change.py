"""What changed in the model: target policy agreement before and after, attacks, capability, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.config import ReportConfig
from trace_ray.report.sections.gap import SHOWN_GROUPS
from trace_ray.report.sections.measures import Measure, other_measures
from trace_ray.runs.artifacts import EVALUATION_METRICS, Run, read_json
from trace_ray.runs.damage import Damage, damages


@dataclass(frozen=True)
class Measured:
    """A percentage with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ChangeRow:
    """One group of held-out prompts, before and after; ``difference`` is the paired change's interval, if stored."""

    name: str
    prompts: int
    base: Measured
    realigned: Measured
    difference: tuple[float, float] | None

    @property
    def change(self) -> float:
        return self.realigned.value - self.base.value

    @property
    def clear(self) -> bool:
        """Returns whether the change's interval excludes 0; where none was stored, whether the models' do not overlap."""
        if self.difference is not None:
            return self.difference[0] > 0 or self.difference[1] < 0
        return self.base.high < self.realigned.low or self.realigned.high < self.base.low

    def said(self, unit: str = "") -> str:
        """Returns the change with what is known of its certainty, in words: colour alone would not reach everyone.

        >>> ChangeRow("all", 8, Measured(50.0, 12.0, 88.0), Measured(75.0, 38.0, 100.0), (-37.5, 75.0)).said(" points")
        '+25.0 points (-37.5 to 75.0), unclear'
        >>> ChangeRow("RETAIN", 96, Measured(100, 96, 100), Measured(100, 96, 100), (-3.8, 3.8)).said(" points")
        'no change seen; a loss above 3.8 points is excluded'
        """
        if not round(self.change, 1):
            return "no change seen" if self.difference is None else f"no change seen; {self._excluded(unit)}"
        interval = "" if self.difference is None else f" ({self.difference[0]:z.1f} to {self.difference[1]:z.1f})"
        return f"{self.change:+z.1f}{unit}{interval}" + ("" if self.clear else ", unclear")

    def _excluded(self, unit: str) -> str:
        loss = -self.difference[0] if self.difference else 0.0
        return f"a loss above {loss:z.1f}{unit} is excluded"


@dataclass(frozen=True)
class ChangeSection:
    """Before and after.

    Args:
        by_category: ``all`` first; by_source: ``all`` and the largest sources, empty where there is one source only.
        more_sources: how many smaller ones are left out.
        other: title -> lines of what else evaluation measured.
        damage: what of it is beyond a limit; drift_measured: whether there was anything to hold against them.
        target: percent of answers that are to comply (``report.target``).
        base_perplexity: of the base on answers that it should keep; None where it was not measured.
    """

    judge: str
    judge_is_triage_judge: bool
    by_category: list[ChangeRow]
    by_source: list[ChangeRow]
    more_sources: int
    unclear: Mapping[str, int]
    mean_words: Mapping[str, float]
    other: Mapping[str, list[Measure]]
    damage: Sequence[Damage] = ()
    drift_measured: bool = False
    target: float = ReportConfig.target
    base_perplexity: float | None = None

    @property
    def overall(self) -> ChangeRow:
        return self.by_category[0]

    @property
    def complied_already(self) -> bool:
        """Returns whether the base reached the target: there is then nothing to gain."""
        return self.overall.base.value >= self.target

    @property
    def intervals_stored(self) -> bool:
        """Returns whether every row has its change's interval; older runs have none by source."""
        return all(row.difference is not None for row in (*self.by_category, *self.by_source))


def change_section(run: Run, limits: ReportConfig | None = None) -> ChangeSection | None:
    """Returns before and after; None before evaluation is done.

    Args:
        limits: beyond which a model counts as damaged; None = the defaults.
    """
    if not run.evaluation.done():
        return None
    metrics = read_json(run.evaluation.place / EVALUATION_METRICS)
    limits = limits or ReportConfig()
    damage, drift = damages(metrics, limits), metrics.get("drift") or {}
    every = change_rows(
        metrics["tpa_by_source"],
        metrics["n_by_source"],
        metrics["tpa_by_source_interval"],
        metrics.get("tpa_change_by_source", {}),  # runs evaluated before it was stored have none
    )
    sources = sorted(every[1:], key=lambda row: (-row.prompts, row.name))
    return ChangeSection(
        judge=metrics["judge"],
        judge_is_triage_judge=metrics["judge_is_triage_judge"],
        by_category=change_rows(metrics["tpa"], metrics["n"], metrics["tpa_interval"], metrics["tpa_change"]),
        by_source=[*every[:1], *sources[:SHOWN_GROUPS]] if len(sources) > 1 else [],
        more_sources=max(0, len(sources) - SHOWN_GROUPS),
        unclear=metrics["unclear"],
        mean_words=metrics["mean_words"],
        other=other_measures(metrics, {harm.measure for harm in damage}),
        damage=damage,
        drift_measured=bool(drift),
        target=limits.target,
        base_perplexity=float(drift["ppl_base"]) if drift else None,
    )


def change_rows(
    tpa: Mapping[str, Mapping[str, float]],
    n: Mapping[str, int],
    intervals: Mapping[str, Mapping[str, Any]],
    changes: Mapping[str, Any],
) -> list[ChangeRow]:
    """Returns one row a group, ``all`` first."""
    names = sorted(n, key=lambda name: (name != "all", name))

    def measured(model: str, name: str) -> Measured:
        low, high = intervals[model][name]
        return Measured(tpa[model][name], low, high)

    def difference(name: str) -> tuple[float, float] | None:
        return tuple(changes[name]["interval"]) if name in changes else None

    return [
        ChangeRow(name, n[name], measured("base", name), measured("realigned", name), difference(name))
        for name in names
    ]
