"""The tables that the command line prints. A name that comes from data is a ``Text``: rich reads a plain string as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from trace_ray.pairs import Category
from trace_ray.runs.artifacts import ANSWERS
from trace_ray.runs.rounds import ROUNDS
from trace_ray.runs.status import DAMAGED, DRIVER, ENDED_ROUND, State, round_name

if TYPE_CHECKING:
    from trace_ray.compare.table import Line

STAGE_FOLDERS = {
    "triage": ("rejects", "triaged"),
    "impact": ("impact", "scored"),
    "realign": ("realign", "model"),
    "evaluate": ("evaluation",),
    "report": ("report.html",),
}
"""What ``runs.status`` tells of each stage."""


def status_table(rows: Sequence[State]) -> Table:
    """Returns a line a stage, of further rounds too: its state, what it has counted, its seconds; and what the driver is at."""
    table = Table("stage", "state", "so far", box=None)
    found = {name: (state, facts) for name, state, facts in rows}
    state, facts = found.pop(DRIVER, ("", {}))
    doing = facts["doing"] if state == "at work" else ""
    for stage, names in STAGE_FOLDERS.items():
        table.add_row(stage, *_stage_line([found[name] for name in names], doing if _at(doing, stage) else ""))
    for number in sorted({int(name.split("/")[1]) for name in found if name.startswith(f"{ROUNDS}/")}):
        if (ended := round_name(number, ENDED_ROUND)) in found:
            table.add_row(f"round {number}", *_stage_line([found[ended]], ""))
            continue
        for stage, names in {ANSWERS: (ANSWERS,), **STAGE_FOLDERS}.items():
            called, folders = f"round {number}: {stage}", [found[round_name(number, name)] for name in names]
            table.add_row(called, *_stage_line(folders, doing if _at(doing, called) else ""))
    if facts:
        table.add_row(DRIVER, state, Text(_driver(facts)))
    return table


def _at(doing: str, stage: str) -> bool:
    return doing == stage or doing.startswith(f"{stage}:")


def _stage_line(folders: Sequence[tuple[str, Mapping[str, Any]]], doing: str) -> tuple[str, Text]:
    """The state of a stage's folders as one; a count of 0 is left out, and so is a problem: it is a line of its own."""
    states = [state for state, _ in folders]
    facts = {k: v for state, counts in folders if state != DAMAGED for k, v in counts.items()}
    seconds = max((counts.get("seconds", 0.0) for state, counts in folders if state == "done"), default=0.0)
    said = [f"{k.replace('_', ' ')} {v}" for k, v in facts.items() if k != "seconds" and v]
    said += [f"{seconds:.0f} s"] if seconds else []
    if DAMAGED in states:
        state = DAMAGED
    elif len(set(states)) == 1 and states[0] != "begun":
        state = states[0]
    else:
        state = "begun"
    return (state, Text(", ".join(said))) if not doing else ("at work", Text(doing))


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
    seconds = Table(*summary["seconds"], title="Seconds by stage", title_justify="left")
    seconds.add_row(*(f"{value:.0f}" for value in summary["seconds"].values()))
    return [triage_table(summary), *evaluation_tables(summary), seconds]


def triage_table(summary: Mapping[str, Any]) -> Table:
    """Returns pairs by split and category, and below them what was read and how the judge compares with labels."""
    counts = summary["counts"]
    names = [c.value for c in (Category.RETAIN, Category.INVERT, Category.PUNISH, Category.ABSTAIN)]
    pairs = Table("pairs", *names, title="Triage", title_justify="left", caption_justify="left")
    for split in ("train", "test"):
        pairs.add_row(split, *(str(counts.get(f"{split} {name}", 0)) for name in names))
    said = [f"{counts['rows_in']} rows read, {counts.get('rejects', 0)} refused"] if "rows_in" in counts else []
    if audit := summary.get("audit"):
        checked = audit.get("checked_pairs", audit["pairs"])
        over = "" if checked == audit["pairs"] else f" over all {audit['pairs']}"
        agrees = f"{audit['agreement']:.3f}, AUC {audit['auc']:.3f}{over}"
        said.append(f"judge agrees with {checked} labelled pairs: {agrees}")
    pairs.caption = "\n".join(said) or None
    return pairs


def evaluation_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Returns agreement by category and by source; none before evaluation."""
    figures = summary.get("evaluation")
    if not figures:
        return []
    damaged = bool(summary.get("damage"))
    groups = (("category", figures["tpa"], figures["n"]), ("source", figures["tpa_by_source"], figures["n_by_source"]))
    return [_agreement(*group, damaged=damaged) for group in groups]


def impact_table(manifest: Mapping[str, Any]) -> Table:
    """Returns, by category, the pairs that training reads, and of the weighed ones how their impacts lie.

    Args:
        manifest: of scored/.
    """
    table = Table("category", "pairs", "no positive impact", "median impact", title="Impact", title_justify="left")
    for name in (category.value for category in Category if category in manifest["counts"]):
        row = manifest["summary"].get(name)
        weighed = (f"{row['count'] * row['share_clamped']:.0f}", f"{row['median']:.3g}") if row else ("", "")
        table.add_row(name, str(manifest["counts"][name]), *weighed)
    return table


def training_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns loss, margin and the two displacements of each category at the last step that trained on it.

    Args:
        rows: of ``runs.figures.training_figures``.
    """
    title = f"Training, {len(rows)} steps, {sum(row['tokens'] for row in rows)} tokens"
    table = Table("category", *(name for name, _ in _TRAINED), title=title, title_justify="left")
    for category in Category:
        last = next((row for row in reversed(rows) if f"{category}/loss" in row), None)
        if last is not None:
            table.add_row(category.value, *(_figure(last.get(f"{category}/{key}")) for _, key in _TRAINED))
    return table


_TRAINED = (
    ("loss", "loss"),
    ("margin", "margin"),
    ("preferred moved", "reward_raised"),
    ("suppressed moved", "reward_lowered"),
)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def closing_line(summary: Mapping[str, Any], report: str) -> Text:
    """Returns what a run ends with: where its report is, and before it what makes its model a damaged one."""
    end = f"report: {report}"
    if damage := summary.get("damage"):
        return Text(f"the realigned model is damaged: {'; '.join(damage)}; {end}", "bold red")
    return Text(end)


def rounds_lines(rounds: Sequence[Mapping[str, Any]]) -> list[Text]:
    """Returns the line that compares TPA round by round; none of a run alone.

    Args:
        rounds: of ``runs.rounds.rounds_summary``.
    """
    told = [f"before {row['tpa']:.1f}" if not row["round"] else _round_said(row) for row in rounds]
    return [Text(f"target policy agreement, %: {', '.join(told)}")] if told else []


def _round_said(row: Mapping[str, Any]) -> str:
    return f"round {row['round']} " + (f"{row['tpa']:.1f}" if "tpa" in row else f"not trained ({row['ended']})")


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
