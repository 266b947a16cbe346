"""What holds when it is trained on: agreement by length of training and by rate, with a chosen step, and along the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from trace_ray.study.results import Result, estimate

Column = tuple[int, float, float]
"""Steps, multiple of the tuned rate, share of labels damaged."""


def _columns(results: Sequence[Result]) -> list[Column]:
    """Lengths first, then rates, then noise."""
    found = {_column(result) for result in results}
    return sorted(found, key=lambda column: (column[2], column[1] != 1, column[1], column[0]))


def _column(result: Result) -> Column:
    return result["steps"], result["cell"]["times"], result["cell"]["noise"]


def _heading(column: Column) -> str:
    steps, times, noise = column
    return f"{steps} steps{f', {times:g} x rate' if times != 1 else ''}{f', {noise:.0%} noise' if noise else ''}"


def _table(results: Sequence[Result], corner: str, shown: Callable[[Sequence[Result]], str]) -> str:
    columns = _columns(results)
    lines = [f"| {corner} | {' | '.join(map(_heading, columns))} |", f"|{'---|' * (len(columns) + 1)}"]
    for method in dict.fromkeys(result["cell"]["method"] for result in results):
        mine = [r for r in results if r["cell"]["method"] == method]
        cells = [[r for r in mine if _column(r) == column] for column in columns]
        lines.append(f"| {method} | {' | '.join(shown(cell) if cell else '' for cell in cells)} |")
    return "\n".join(lines)


def hold_table(results: Sequence[Result]) -> str:
    """Returns TPA after the last step by method (rows) and length, rate and noise (columns), of all test prompts."""
    return _table(results, "TPA, %", lambda cell: estimate([r["tpa"] for r in cell]).text())


def kept_table(results: Sequence[Result]) -> str:
    """Returns TPA after the last step on the prompts that the new policy treats as the old one did, and drift."""
    return _table(results, "kept, % (KL)", _kept)


def _kept(cell: Sequence[Result]) -> str:
    last = [result["path"][-1] for result in cell]
    return f"{estimate([at['kept'] for at in last]).text()} ({mean(at['kl'] for at in last):.4f})"


def selected_table(results: Sequence[Result]) -> str:
    """Returns TPA of the chosen step, on the test prompts that did not choose it, and beside it that of the last step."""
    return _table(results, "TPA, %: chosen step (last)", _selected)


def _selected(cell: Sequence[Result]) -> str:
    chosen = [result["selected"] for result in cell]
    return f"{estimate([c['tpa'] for c in chosen]).text()} ({mean(c['tpa_last'] for c in chosen):.1f})"


def hold_figures(results: Sequence[Result]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Returns method -> column -> mean TPA over seeds, lower end of its interval, least kept, seeds."""
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for result in results:
        method, column = result["cell"]["method"], _column(result)
        cell = [r for r in results if (r["cell"]["method"], _column(r)) == (method, column)]
        tpa, least = estimate([r["tpa"] for r in cell]), min(r["path"][-1]["kept"] for r in cell)
        figures = {"tpa": tpa.mean, "low": tpa.mean - tpa.half, "least_kept": least, "seeds": tpa.seeds}
        found.setdefault(method, {})[_heading(column)] = {k: round(v, 2) for k, v in figures.items()}
    return found


def plot_paths(results: Sequence[Result], out: Path) -> None:
    """Draws TPA over the steps of the longest trainings at the tuned rate: the mean over seeds, and all seeds as a band."""
    from matplotlib.figure import Figure

    plain = [r for r in results if r["cell"]["times"] == 1 and not r["cell"]["noise"]]
    longest = max(result["steps"] for result in plain)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(r["cell"]["method"] for r in plain if r["steps"] == longest):
        paths = [r["path"] for r in plain if (r["cell"]["method"], r["steps"]) == (method, longest)]
        by_step = {at[0]["step"]: [point["tpa"] for point in at] for at in zip(*paths, strict=True)}
        (line,) = axes.plot(
            list(by_step), [mean(values) for values in by_step.values()], marker="o", ms=3, label=method
        )
        low, high = zip(*((min(values), max(values)) for values in by_step.values()), strict=True)
        axes.fill_between(list(by_step), low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_ylim(0, 103)
    axes.set_xlabel("optimizer steps (band: all seeds)")
    axes.set_ylabel("TPA, %")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(out, metadata={"Date": None})
