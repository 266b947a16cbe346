"""`trace-ray status`: what of a run is done, and what its driver is at."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from trace_ray.cli.options import AsJson, RunUri, StorageOverrides
from trace_ray.cli.output import standard_output, tell_problems
from trace_ray.cli.tables import status_table
from trace_ray.config.load import load_storage
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import CONFIG, Run
from trace_ray.runs.status import DAMAGED, DRIVER, State, all_done
from trace_ray.runs.status import status as states
from trace_ray.storage.jsonl import strict_json
from trace_ray.storage.location import nearby

WATCH_SECONDS = 2.0


def status(
    run: RunUri,
    overrides: StorageOverrides = None,
    as_json: AsJson = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="again every two seconds until all is done; for machines, at each change"),
    ] = False,
) -> None:
    """What is done, what is not, what is damaged, and what the driver is at, with its ETA."""
    from rich.live import Live

    from trace_ray.pipeline import run_folder

    opened = run_folder(run, load_storage(overrides or []))
    rows = list(states(opened))
    if all(state == "-" for name, state, _ in rows if name != DRIVER) and not (opened.place / CONFIG).exists():
        raise UserError("--run", run, f"no run has begun there{nearby(opened.place)}")
    seen = _watched(opened, rows) if watch else iter([rows])
    if as_json:
        for _, same in itertools.groupby(seen, _without_driver):
            rows = next(same)
            told = [{"artefact": name, "state": state, **facts} for name, state, facts in rows]
            print(strict_json(told), flush=True)
    else:
        with Live(console=standard_output(), auto_refresh=False) as live:
            for rows in seen:
                live.update(status_table(rows), refresh=True)
    tell_problems([facts["problem"] for _, state, facts in rows if state == DAMAGED], None)


def _without_driver(rows: list[State]) -> list[State]:
    """Its words change with every beat."""
    return [row for row in rows if row[0] != DRIVER]


def _watched(run: Run, rows: list[State]) -> Iterator[list[State]]:
    """Yields the run's state, ``rows`` first, every two seconds until all is done or something is found damaged."""
    yield rows
    while not all_done(rows) and not any(state == DAMAGED for _, state, _ in rows):
        time.sleep(WATCH_SECONDS)
        rows = list(states(run))
        yield rows
