"""`trace-ray watch`: a run in progress on one page of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trace_ray.cli.options import RunUri, StorageOverrides
from trace_ray.config.load import load_storage
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import CONFIG, Run
from trace_ray.runtime.progress import CONSOLE
from trace_ray.storage.location import nearby

if TYPE_CHECKING:
    from trace_ray.report.served import Pages

PORT = 8732
"""Unassigned, and none of Ray's."""


def watch(
    run: RunUri,
    overrides: StorageOverrides = None,
    port: Annotated[int, typer.Option("--port", help="of the page; 0 = any that is free")] = PORT,
    html: Annotated[Path | None, typer.Option("--html", help="write a snapshot to this file instead")] = None,
    host: Annotated[
        str, typer.Option("--host", help="where to listen; beyond this machine only with a token")
    ] = "127.0.0.1",
    token: Annotated[
        str, typer.Option("--token", envvar="TRACE_RAY_WATCH_TOKEN", help="what a reader must give as ?token=")
    ] = "",
) -> None:
    """A run in progress in a browser: stages, pairs, losses, memory, cost, the report so far."""
    from trace_ray.pipeline import run_folder
    from trace_ray.report.live import live_page
    from trace_ray.report.served import serve

    opened = run_folder(run, load_storage(overrides or []))
    if not (opened.place / CONFIG).exists():
        raise UserError("--run", run, f"no run has begun there{nearby(opened.place)}")
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(live_page(opened, follows=False), encoding="utf-8")
        CONSOLE.print(f"page: {html}", soft_wrap=True, markup=False, emoji=False)
        return
    with serve(_pages(opened), host, port, token) as server:
        shown = f"[{host}]" if ":" in host else host
        CONSOLE.print(
            f"watching: http://{shown}:{server.server_address[1]}/", soft_wrap=True, markup=False, emoji=False
        )
        CONSOLE.print("end with Ctrl-C: the run goes on", markup=False, emoji=False)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _pages(run: Run) -> Pages:
    from trace_ray.report.live import live_fragment, live_page

    return {
        "/": lambda: live_page(run, follows=True),
        "/state": lambda: live_fragment(run),
        "/report": lambda: run.report.read_text() if run.report.exists() else "No report yet.",
    }
