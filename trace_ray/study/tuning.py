"""Learning rates by method: what suits one method on this world ruins another, and a comparison at one rate favours one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import mean

from trace_ray.study.cells import ABLATIONS, Cell
from trace_ray.study.results import Result


def chosen_rates(tuning: Iterable[Result]) -> dict[str, float]:
    """Returns for each method (``Cell.recipe``) the rate of highest mean TPA on the tuning worlds.

    Of equals it is the one that drifts least. An ablation is trace without one part: it keeps trace's rate. How it does at
    the others stands in the tuning's table.

    Args:
        tuning: results of ``cells.tuning_plan``.
    """
    by: dict[str, dict[float, list[Result]]] = {}
    for result in tuning:
        by.setdefault(result["label"], {}).setdefault(result["cell"]["rate"], []).append(result)
    best = {recipe: max(rates, key=lambda rate: _worth(rates[rate])) for recipe, rates in by.items()}
    return best | (dict.fromkeys(ABLATIONS, best["trace"]) if "trace" in best else {})


def _worth(results: Sequence[Result]) -> tuple[float, float]:
    return mean(r["tpa"] for r in results), -mean(r["kl_to_base"] for r in results)


def at_rates(cells: Iterable[Cell], rates: Mapping[str, float]) -> list[Cell]:
    """Returns the cells, each at its method's learning rate."""
    return [replace(cell, rate=rates[cell.recipe]) for cell in cells]


def tuning_table(tuning: Sequence[Result], rates: Mapping[str, float]) -> str:
    """Returns mean TPA by method and learning rate, the rate that the study takes in bold."""
    tried = sorted({result["cell"]["rate"] for result in tuning})
    lines = [f"| TPA, % | {' | '.join(f'{rate:.1e}' for rate in tried)} |", f"|{'---|' * (len(tried) + 1)}"]
    for recipe in dict.fromkeys(result["label"] for result in tuning):
        shown = []
        for rate in tried:
            mine = [r["tpa"] for r in tuning if (r["label"], r["cell"]["rate"]) == (recipe, rate)]
            shown.append(f"**{mean(mine):.1f}**" if rates[recipe] == rate else f"{mean(mine):.1f}")
        lines.append(f"| {recipe} | {' | '.join(shown)} |")
    return "\n".join(lines)
