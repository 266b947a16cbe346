"""`trace-ray export`: the end of stage 3 alone, from a training that is done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trace_ray.config.load import load_config, load_storage
from trace_ray.runs.artifacts import EXPORT, Run
from trace_ray.runtime.progress import CONSOLE


def export_trained(
    run: Annotated[str, typer.Option("--run", help="the run's folder: a path or s3://bucket/prefix")],
    config: Annotated[list[Path] | None, typer.Option("-c", "--config", help="instead of the run's own yaml")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="storage.key=value; with -c any key.path=value")] = None,
) -> None:
    """The model of a training that is done: adapter and merged model, where realign could not write them."""
    from trace_ray.pipeline import open_run, run_folder, run_stages, stored_config

    if config:
        settings = load_config(config, overrides or [])
        opened: Run = open_run(run, settings)
    else:
        opened = run_folder(run, load_storage(overrides or []))
        settings = stored_config(opened, run)
    run_stages(opened, settings, [EXPORT], lambda stage, state: CONSOLE.print(f"[bold]{stage}[/]: {state}"))
    print(f"model: {opened.model.place.uri}")
