"""What commands print: tables for people on standard output, problems as lines on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console

from trace_ray.cli.tables import closing_line, rounds_lines, summary_tables
from trace_ray.runs.artifacts import Run
from trace_ray.runtime.interrupts import terminated
from trace_ray.storage.jsonl import strict_json

MISTAKE = 2
"""The exit code of a user's mistake."""
INTERRUPTED = 130
"""And that of Ctrl-C."""
TERMINATED = 143
"""And that of SIGTERM."""


def interruption() -> tuple[int, str]:
    """Returns exit code and word of what interrupted this process."""
    return (TERMINATED, "terminated") if terminated() else (INTERRUPTED, "interrupted")


def standard_output() -> Console:
    """Returns the console for tables; 110 characters wide where no terminal says otherwise."""
    return Console(width=None if sys.stdout.isatty() else 110)


def tell_problems(problems: Sequence[object], document: Mapping[str, Any] | None) -> None:
    """Prints the document, and each problem as a line of its own; exits with 2 where there is one."""
    if document is not None:
        print(strict_json(document, indent=1))
    for problem in problems:
        print(f"trace-ray: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(MISTAKE)


def show_run(run: Run, *, as_json: bool) -> None:
    """Prints the run's tables, or its summary, on standard output."""
    from trace_ray.pipeline import stored_config
    from trace_ray.runs.summary import run_summary

    summary = run_summary(run, stored_config(run, run.place.uri).report)
    if as_json:
        print(strict_json(summary | {"report": run.report.uri}, indent=1))
        return
    out = standard_output()
    for table in summary_tables(summary):
        out.print(table)
    out.print(closing_line(summary, run.report.uri), soft_wrap=True)
    _show_rounds(out, run, summary.get("rounds", []))


def _show_rounds(out: Console, run: Run, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Prints the tables of each further round, and a last line that compares all of them."""
    from trace_ray.pipeline import stored_config
    from trace_ray.runs.rounds import round_run
    from trace_ray.runs.summary import run_summary

    for number in [row["round"] for row in rounds if row["round"] > 1 and "tpa" in row]:
        further = round_run(run, number)
        summary = run_summary(further, stored_config(further, further.place.uri).report)
        out.print(f"\nround {number}")
        for table in summary_tables(summary):
            out.print(table)
        out.print(closing_line(summary, further.report.uri), soft_wrap=True)
    for line in rounds_lines(rounds):
        out.print(line, soft_wrap=True)
