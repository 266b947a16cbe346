"""The tables that the command line prints. A name that comes from data is a ``Text``: rich reads a plain string as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from trace_ray.pairs import Category
from trace_ray.runs.status import DAMAGED, DRIVER, State

if TYPE_CHECKING:
    from trace_ray.compare.table import Line


def status_table(rows: Sequence[State]) -> Table:
    """Returns the artefacts with their state, rows and seconds, and what the driver is at."""
    table = Table("artefact", "state", "rows and seconds", box=None)
    for name, state, facts in rows:
        shown = {} if state == DAMAGED else facts  # the problem is a line of its own, below the table
        said = _driver(facts) if name == DRIVER else ", ".join(f"{k} {v}" for k, v in shown.items())
        table.add_row(name, state, Text(said))
    return table


def _driver(facts: Mapping[str, Any]) -> str:
    who = f"pid {facts['pid']} on {facts['host']}, heard {facts['heard_s']:.0f} s ago"
    return f"{facts['doing']} ({who})" if facts["doing"] else who


def comparison_table(names: Sequence[str], lines: Iterable[Line]) -> Table:
    """Returns one column a run, a heading above each section's lines."""
    table = Table("", box=None)
    for name in names:
        table.add_column(Text(name))
    section = ""
    for line in lines:
        if line.section != section:
            section = line.section
            table.add_row(Text(section, "bold"))
        table.add_row(Text(line.name), *map(Text, line.values))
    return table


def summary_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Returns the run's tables: pairs by category, TPA before and after, seconds by stage."""
    counts, names = (
        summary["counts"],
        [c.value for c in (Category.RETAIN, Category.INVERT, Category.PUNISH, Category.ABSTAIN)],
    )
    pairs = Table("pairs", *names, title="Triage", title_justify="left")
    for split in ("train", "test"):
        pairs.add_row(split, *(str(counts.get(f"{split} {name}", 0)) for name in names))
    if audit := summary.get("audit"):
        checked = audit.get("checked_pairs", audit["pairs"])
        over = "" if checked == audit["pairs"] else f" over all {audit['pairs']}"
        said = f"{audit['agreement']:.3f}, AUC {audit['auc']:.3f}{over}"
        pairs.caption = f"judge agrees with {checked} labelled pairs: {said}"
    tables = [pairs]
    if figures := summary.get("evaluation"):
        damaged = bool(summary.get("damage"))
        tables.append(_agreement("category", figures["tpa"], figures["n"], damaged=damaged))
        tables.append(_agreement("source", figures["tpa_by_source"], figures["n_by_source"], damaged=damaged))
    seconds = Table(*summary["seconds"], title="Seconds by stage", title_justify="left")
    seconds.add_row(*(f"{value:.0f}" for value in summary["seconds"].values()))
    return [*tables, seconds]


def closing_line(summary: Mapping[str, Any], report: str) -> Text:
    """Returns what a run ends with: where its report is, and before it what makes its model a damaged one."""
    end = f"report: {report}"
    if damage := summary.get("damage"):
        return Text(f"the realigned model is damaged: {'; '.join(damage)}; {end}", "bold red")
    return Text(end)


def _agreement(
    by: str, tpa: Mapping[str, Mapping[str, float]], n: Mapping[str, int], *, damaged: bool = False
) -> Table:
    title = f"Target policy agreement, %, by {by}" + (", of a damaged model" if damaged else "")
    table = Table(by, "prompts", "base", "realigned", "change", title=title, title_justify="left")
    table.columns[3].style = table.columns[4].style = "red" if damaged else ""
    for group, number in sorted(n.items()):
        base, after = tpa["base"][group], tpa["realigned"][group]
        table.add_row(Text(group), str(number), f"{base:.1f}", f"{after:.1f}", f"{after - base:+.1f}")
    return table
