"""From the rows that were read to the pairs that were trained on, nothing unexplained in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trace_ray.pairs import CONFLICTS, Category, Split
from trace_ray.report.sections.gap import Gap
from trace_ray.report.survey.scored import Scored
from trace_ray.report.survey.surveys import Surveys
from trace_ray.runs.artifacts import Run


@dataclass(frozen=True)
class FunnelRow:
    """One step: ``kind`` is ``sum`` for what is left after it, ``less`` for what it takes away, ``more`` for what it adds."""

    name: str
    pairs: int
    kind: str = "sum"
    note: str = ""
    category: str = ""


def funnel(run: Run, gap: Gap | None, seen: Surveys) -> Sequence[FunnelRow]:
    """Returns the steps; () before triage is done, without the last ones before impact is."""
    if gap is None or seen.triaged is None:
        return ()
    split = seen.triaged.by("split", "category")
    held_out = sum(split[Split.TEST, name] for name in CONFLICTS)
    return [*_read(gap), *_conflicts(gap, held_out), *_trained(run, seen.scored, gap.overall.conflicts - held_out)]


def _read(gap: Gap) -> Iterator[FunnelRow]:
    yield FunnelRow("Rows read", gap.rows_in)
    if gap.extra:
        yield FunnelRow("further pairs of ranked rows", gap.extra, "more")
    yield FunnelRow("refused", gap.rejects, "less", "no pair, repeated, or a prompt that is held out")
    yield FunnelRow("Pairs judged", gap.overall.total)
    yield FunnelRow("still right", gap.overall.counts.get(Category.RETAIN, 0), "less", "", Category.RETAIN)
    yield FunnelRow("unsure", gap.overall.counts.get(Category.ABSTAIN, 0), "less", "", Category.ABSTAIN)


def _conflicts(gap: Gap, held_out: int) -> Iterator[FunnelRow]:
    parts = [f"{gap.overall.counts.get(name, 0):,}" for name in CONFLICTS]
    yield FunnelRow("Conflicts", gap.overall.conflicts, "sum", f"{parts[0]} backwards, {parts[1]} both wrong")
    yield FunnelRow("held out", held_out, "less", "kept to evaluate, never trained on")


def _trained(run: Run, found: Scored | None, left: int) -> Iterator[FunnelRow]:
    """Noise changes categories on purpose, so that what is scored may be more than what is left."""
    if found is None:
        yield FunnelRow("Conflicts to train on", left)
        return
    scored, weighed = (sum(counted[name] for name in CONFLICTS) for counted in (found.rows, found.trained))
    if scored < left:
        yield FunnelRow(
            "not scored", left - scored, "less", "the method passes over them, or the model cannot read them"
        )
    elif scored > left:
        yield FunnelRow("labels damaged on purpose", scored - left, "more", "corpus.noise")
    yield FunnelRow("weight 0", scored - weighed, "less", "a step on them would not help")
    yield FunnelRow("Conflicts trained on" if run.realign.done() else "Conflicts to train on", weighed)
