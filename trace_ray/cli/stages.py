"""`trace-ray run` and the stages one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer

from trace_ray.cli.options import AsJson, Files, Method, Overrides, RunUri
from trace_ray.cli.output import INTERRUPTED, show_run
from trace_ray.config.load import load_config
from trace_ray.runs.artifacts import STAGES, Run
from trace_ray.runtime.progress import CONSOLE


def run_and_tell(
    files: Sequence[str], overrides: Sequence[str], uri: str, method: str | None, stages: Sequence[str]
) -> Run:
    """Runs stages, telling each one's start and end; Ctrl-C ends with a line that says how to go on."""
    from trace_ray.pipeline import open_run, run_stages

    config = load_config(files, overrides, method)
    run = open_run(uri, config)
    try:
        run_stages(run, config, stages, lambda stage, state: CONSOLE.print(f"[bold]{stage}[/]: {state}"))
    except KeyboardInterrupt:
        print("trace-ray: interrupted: what is finished is kept, and the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    return run


def run(
    config: Files, run: RunUri, overrides: Overrides = None, method: Method = None, as_json: AsJson = False
) -> None:
    """All stages, in order; a stage that is done is left alone, an interrupted one goes on."""
    show_run(run_and_tell(config, overrides or [], run, method, STAGES), as_json=as_json)


def stage_command(stage: str, text: str) -> Callable[..., None]:
    """Returns the command that runs one stage; ``text`` is its help."""

    def command(config: Files, run: RunUri, overrides: Overrides = None, method: Method = None) -> None:
        run_and_tell(config, overrides or [], run, method, [stage])

    command.__doc__ = text
    return command


triage = stage_command("triage", "Stage 1: judge every pair under the new policy.")
impact = stage_command("impact", "Stage 2: score and weigh the conflicts.")
realign = stage_command("realign", "Stage 3: train the adapter, export the model.")
evaluate = stage_command("evaluate", "Stage 4: answers of base and realigned model, judged.")
report = stage_command("report", "Stage 5: one HTML page.")
