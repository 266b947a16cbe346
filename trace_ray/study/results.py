"""From cells' results to means with 95 % intervals, as a table and as plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from trace_ray.synth.oracle import CHANGED

Result = dict[str, Any]
"""One finished cell: cell (its fields), label, tpa, tpa_by_source, kl_to_base, seconds and so on."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95 % interval (Student's t); 0 for a single seed."""

    mean: float
    half: float
    seeds: int

    def text(self, digits: int = 1) -> str:
        """Returns mean ± half-width; a lone seed has no interval."""
        if self.seeds == 1:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Returns mean and interval over seeds. Five are few: t is 2.8 there, and equal values give a width of 0."""
    from scipy import stats

    count = len(values)
    spread = stdev(values) / count**0.5 if count > 1 else 0.0
    return Estimate(mean(values), float(stats.t.ppf(0.975, count - 1)) * spread if count > 1 else 0.0, count)


CellGroup = tuple[str, int, float]
"""Label of method and variant, training pairs, noise."""


def grouped(results: Iterable[Result]) -> dict[CellGroup, list[Result]]:
    """Returns the results of all seeds by label, size and noise, in the order met."""
    groups: dict[CellGroup, list[Result]] = {}
    for result in results:
        cell = result["cell"]
        groups.setdefault((result["label"], cell["pairs"], cell["noise"]), []).append(result)
    return groups


COLUMNS: tuple[tuple[str, Callable[[Result], float | None], int], ...] = (
    ("TPA, %", lambda r: r["tpa"], 1),
    ("to learn, %", lambda r: r["tpa_by_source"][CHANGED], 1),
    ("kept, %", lambda r: mean(v for k, v in r["tpa_by_source"].items() if k != CHANGED), 1),
    ("KL to base", lambda r: r["kl_to_base"], 4),
    ("scoring, CPU s", lambda r: r["seconds"]["scoring"] + r["seconds"]["direction"], 1),
    ("training, CPU s", lambda r: r["seconds"]["training"], 1),
    ("of it KL", lambda r: r["seconds"].get("kl"), 1),
    ("scoring peak, MiB", lambda r: _mib(r, "direction", "scoring"), 0),
    ("peak, MiB", lambda r: r["peak_bytes"] / 2**20, 0),
)
"""Heading, value of one result (None: not measured), digits. ``to learn``: the prompts that the new policy treats otherwise;
``kept``: the rest; ``of it KL``: the reference's forwards and the KL over the vocabulary."""


def _mib(result: Result, *phases: str) -> float | None:
    peaks = result.get("peak_bytes_by_phase")
    return max(peaks[name] for name in phases) / 2**20 if peaks else None


def markdown_table(results: Iterable[Result]) -> str:
    """Returns one row a method, size and noise rate: mean ± half-width of the 95 % interval over seeds."""
    head = ["method", "pairs", "noise", "seeds", "steps", *(name for name, _, _ in COLUMNS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for (label, pairs, noise), found in grouped(results).items():
        values = [_shown([of(r) for r in found], digits) for _, of, digits in COLUMNS]
        about = [label, str(pairs), f"{noise:.0%}", str(len(found)), str(found[0]["steps"])]
        lines.append(f"| {' | '.join([*about, *values])} |")
    return "\n".join(lines)


def scale_table(results: Sequence[Result]) -> str:
    """Returns TPA by method or variant (rows) and size (columns), without noise; a size that was not run is empty."""
    clean = grouped(r for r in results if not r["cell"]["noise"])
    sizes = sorted({pairs for _, pairs, _ in clean})
    rows = {label: [clean.get((label, n, 0.0), []) for n in sizes] for label, _, _ in clean}
    return _tpa_table([f"{n:,} pairs" for n in sizes], rows)


def noise_table(results: Sequence[Result]) -> str:
    """Returns TPA by method (rows) and share of damaged labels (columns), for the methods that were run with noise."""
    plain = grouped(r for r in results if not r["cell"]["variant"])
    rates = sorted({noise for _, _, noise in plain})
    noisy = dict.fromkeys((label, pairs) for label, pairs, noise in plain if noise)
    rows = {label: [plain.get((label, pairs, rate), []) for rate in rates] for label, pairs in noisy}
    return _tpa_table([f"{rate:.0%} damaged" for rate in rates], rows)


def _tpa_table(columns: Sequence[str], rows: Mapping[str, Sequence[Sequence[Result]]]) -> str:
    lines = [f"| TPA, % | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for label, cells in rows.items():
        shown = [estimate([r["tpa"] for r in cell]).text() if cell else "" for cell in cells]
        lines.append(f"| {label} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return estimate(known).text(digits) if len(known) == len(values) else "-"


_COLOURS = {
    "trace": "#0072b2",
    "trace_oracle": "#56b4e9",
    "naive_oracle_dpo": "#d55e00",
    "dpo_gold": "#e69f00",
    "rdpo": "#cc79a7",
    "npo": "#7f4f24",
    "u2a": "#999999",
    "no_triage": "#009e73",
    "no_retain": "#6a3d9a",
    "no_impact": "#000000",
}
_MARKERS = dict(zip(_COLOURS, "osD^vP*XhH", strict=True))
"""A method looks the same in every plot."""


def plot_scale(results: Sequence[Result], out: Path) -> None:
    """Draws TPA over the training pairs, one line a method."""
    clean = [r for r in results if not r["cell"]["noise"] and not r["cell"]["variant"]]
    _lines(clean, lambda r: r["cell"]["pairs"], "training pairs", out)


def plot_noise(results: Sequence[Result], out: Path) -> None:
    """Draws TPA over the share of damaged labels, one line a method that was run with noise, at that size."""
    noisy = {(r["cell"]["method"], r["cell"]["pairs"]) for r in results if r["cell"]["noise"]}
    kept = [r for r in results if (r["cell"]["method"], r["cell"]["pairs"]) in noisy and not r["cell"]["variant"]]
    _lines(kept, lambda r: round(100 * r["cell"]["noise"]), "% of labels damaged", out)


def plot_ablation(results: Sequence[Result], pairs: int, out: Path) -> None:
    """Draws TPA of every method and variant at one size, without noise."""
    from matplotlib.figure import Figure

    groups = {k: v for k, v in grouped(results).items() if k[1] == pairs and not k[2]}
    if not groups:
        return
    figure = Figure(figsize=(7, 0.3 * len(groups) + 1), layout="constrained")
    axes = figure.add_subplot()
    found = [estimate([r["tpa"] for r in group]) for group in groups.values()]
    names = [label for label, _, _ in groups]
    axes.barh(names, [e.mean for e in found], xerr=_within_percent(found), color="#5477b0", capsize=3, height=0.7)
    axes.axvline(results[0]["tpa_base"], color="#888", linestyle="--")
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0, 105)
    axes.set_xlabel(f"TPA, % ({pairs} pairs; dashed: base)")
    figure.savefig(out, metadata={"Date": None})


def _within_percent(found: Sequence[Estimate]) -> list[list[float]]:
    """The intervals' lower and upper lengths, cut where a percentage ends."""
    return [[min(e.half, e.mean) for e in found], [min(e.half, 100 - e.mean) for e in found]]


def _lines(results: Sequence[Result], place: Callable[[Result], int], label: str, out: Path) -> None:
    """One line a method over places at equal distance, a little apart: equal methods would hide one another."""
    from matplotlib.figure import Figure

    places = sorted({place(r) for r in results})
    if len(places) < 2:
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(r["label"] for r in results))
    for number, method in enumerate(methods):
        mine = {at: [r["tpa"] for r in results if r["label"] == method and place(r) == at] for at in places}
        found = [estimate(values) for values in mine.values()]
        aside = 0.5 * ((number + 0.5) / len(methods) - 0.5)
        axes.errorbar(
            [i + aside for i in range(len(places))],
            [e.mean for e in found],
            yerr=_within_percent(found),
            color=_COLOURS[method],
            marker=_MARKERS[method],
            markersize=5,
            linewidth=1,
            capsize=2,
            label=method,
        )
    axes.axhline(results[0]["tpa_base"], color="#888", linestyle="--", linewidth=1, label="base")
    axes.set_xticks(range(len(places)), [str(name) for name in places])
    axes.set_ylim(top=103)
    axes.set_xlabel(label)
    axes.set_ylabel("TPA, %")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(out, metadata={"Date": None})
