"""Several judges' verdicts on pairs made one: where they differ, what the panel says, how far they agree. No Ray here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trace_ray.judges.clauses import leading
from trace_ray.judges.opinion import clauses_of
from trace_ray.pairs import Category
from trace_ray.triage.block import OTHERS, SIDES
from trace_ray.triage.calibrate import CLAUSE, Decision
from trace_ray.triage.categories import Floats
from trace_ray.triage.panel import AGREE, votes_N


@dataclass(frozen=True)
class Said:
    """What one judge said of both responses of N pairs.

    Args:
        p: {side: P(violates)}, uncalibrated, nan where it gave none; why: {side: the reason for that}.
        asked: {side: whether it was asked}.
        decision: how its probabilities are read.
    """

    p: Mapping[str, Floats]
    why: Mapping[str, Sequence[str | None]]
    asked: Mapping[str, Any]
    decision: Decision

    def categories(self, groups: Sequence[str]) -> Any:
        """Returns the categories that it alone would give."""
        return self.decision.categories(*self.p.values(), groups=groups)

    def votes(self, side: str, groups: Sequence[str]) -> Any:
        bands = [self.decision.band_of(source) for source in groups]
        p = self.decision.calibrated(self.p[side], groups)
        return votes_N(p, self.decision.threshold, np.array(bands) if groups else self.decision.band)

    @property
    def asked_of_pair(self) -> Any:
        return np.any(list(self.asked.values()), axis=0)


@dataclass(frozen=True)
class Verdict:
    """One verdict on N pairs: categories, {side: P(violates)} with nan for none, and what was counted."""

    names: Any
    p: Mapping[str, Floats]
    counts: Mapping[str, int]


def said_of(judged: pa.Table, decision: Decision, least: int = 1) -> list[Said]:
    """Returns what each judge said that was asked of any of the pairs, triage's own first.

    The other judges' probabilities are not calibrated: labels were compared with the first one's.

    Args:
        least: judges returned at least, asked or not.
    """
    every = np.ones(judged.num_rows, dtype=bool)
    none: list[str | None] = [None] * judged.num_rows
    first = Said(raw(judged), dict.fromkeys(SIDES, none), dict.fromkeys(SIDES, every), decision)
    others = []
    for name in OTHERS:
        if f"{name}_chosen" in judged.column_names:  # earlier versions had two judges
            p = {side: floats(judged[f"{name}_{side}"]) for side in SIDES}
            why = {side: judged[f"{name}_error_{side}"].to_pylist() for side in SIDES}
            asked = {side: ~np.isnan(p[side]) | np.array([e is not None for e in why[side]], bool) for side in SIDES}
            others.append(Said(p, why, asked, decision.uncalibrated()))
    return [first, *(other for number, other in enumerate(others, 2) if number <= least or other.asked_of_pair.any())]


def raw(judged: pa.Table) -> dict[str, Floats]:
    """Returns {side: what the judge of the triage said, uncalibrated}."""
    return {side: floats(judged[f"p_{side}"]) for side in SIDES}


def floats(column: pa.ChunkedArray) -> Floats:
    """Returns a column as an array, nan for null."""
    return np.asarray(column.fill_null(float("nan")).to_numpy(), dtype=np.float64)


def groups_of(judged: pa.Table, decision: Decision) -> list[str]:
    """Returns the group of each pair, where the decision goes by groups."""
    if not decision.groups:
        return []
    if decision.by == CLAUSE:
        return [leading(clauses_of(told)) for told in judged["clause_p_chosen"].to_pylist()]
    return list(judged["source"].to_pylist())


def votes(said: Sequence[Said], side: str, groups: Sequence[str]) -> tuple[Any, Any]:
    """Returns the votes of J judges on N responses and who was asked, both N x J."""
    return np.stack([judge.votes(side, groups) for judge in said], 1), np.stack(
        [judge.asked[side] for judge in said], 1
    )


def combine(judged: pa.Table, decision: Decision, groups: Sequence[str], errors: list[str | None]) -> Verdict:
    """Returns what all judges together say of each pair; ``errors`` are told where that is nothing.

    A judge that gave no verdict on a pair has the category ABSTAIN, whatever it said of the pair's neighbours.
    """
    said = said_of(judged, decision, decision.panel.judges)
    alone = [judge.categories(groups) for judge in said]
    p = {side: decision.calibrated(said[0].p[side], groups) for side in SIDES}
    if len(said) == 1:
        return Verdict(alone[0], p, {})
    differ = np.any(
        [judge.asked_of_pair & (names != alone[0]) for judge, names in zip(said, alone, strict=True)], axis=0
    )
    counts = Counter({"judges_differ": int(differ.sum())} if differ.any() else {})
    counts.update(_compared(said, groups))
    if decision.panel.rule == AGREE:
        names = np.where(differ, Category.ABSTAIN.value, alone[0])
    else:
        told = {side: decision.panel.p_violates(*votes(said, side, groups)) for side in SIDES}
        names = decision.panel.categories(told["chosen"], told["rejected"], decision.threshold, decision.band)
        p = told if decision.panel.skills is not None else p
        counts["panel_decided"] = int((differ & (names != Category.ABSTAIN)).sum())
    undecided = (names == Category.ABSTAIN) & (differ | (alone[0] != Category.ABSTAIN))
    for i in np.flatnonzero(undecided):
        errors[i] = "; ".join(filter(None, [errors[i], _why_undecided(i, said, alone)]))
    return Verdict(names, p, counts)


def _why_undecided(i: Any, said: Sequence[Said], alone: Sequence[Any]) -> str:
    asked = [number for number, judge in enumerate(said) if judge.asked_of_pair[i]]
    names = [alone[number][i] for number in asked]
    silent = [
        f" ({OTHERS[number - 1]} judge: {'; '.join(reasons)})"
        for number in asked
        if (reasons := [f"{side}: {why[i]}" for side, why in said[number].why.items() if why[i]])
    ]
    if len(set(names)) == 1:
        return f"the panel is undecided where each judge says {names[0]}"
    return f"judges differ: {', '.join(names[:-1])} and {names[-1]}{''.join(silent)}"


def _compared(said: Sequence[Said], groups: Sequence[str]) -> dict[str, int]:
    """Counts how the first two judges called the responses on which both gave a verdict."""
    counts: Counter[str] = Counter()
    for side in SIDES:
        a, b = (judge.decision.calibrated(judge.p[side], groups) for judge in said[:2])
        both, at = ~np.isnan(a) & ~np.isnan(b), said[0].decision.threshold
        x, y = a[both] >= at, b[both] >= at
        counts.update({"judges_yes_yes": int((x & y).sum()), "judges_no_no": int((~x & ~y).sum())})
        counts.update({"judges_yes_no": int((x & ~y).sum()), "judges_no_yes": int((~x & y).sum())})
    return dict(counts)


def agreement(counts: Mapping[str, int]) -> dict[str, float] | None:
    """Returns how far two judges agree on responses: the plain share and Cohen's kappa; None without a second judge."""
    yy, nn, yn, ny = (counts.get(f"judges_{name}", 0) for name in ("yes_yes", "no_no", "yes_no", "no_yes"))
    total = yy + nn + yn + ny
    if not total:
        return None
    seen = (yy + nn) / total
    chance = ((yy + yn) * (yy + ny) + (nn + ny) * (nn + yn)) / total**2
    return {"responses": total, "share": seen, "kappa": (seen - chance) / (1 - chance) if chance < 1 else 1.0}
