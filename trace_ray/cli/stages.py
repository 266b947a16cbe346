"""`trace-ray run` and the stages one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from trace_ray.cli.endings import tell_curves, tell_end
from trace_ray.cli.options import AsJson, Files, MaybeFiles, Method, Overrides, RunUri
from trace_ray.cli.output import interruption, show_run, standard_output
from trace_ray.config import Config
from trace_ray.config.load import load_config, load_storage
from trace_ray.errors import JudgeRejectedError, UserError
from trace_ray.runs.artifacts import ANSWERS, STAGES, Run
from trace_ray.runtime.progress import CONSOLE

if TYPE_CHECKING:
    from trace_ray.report.stage import Told


def run_and_tell(
    files: Sequence[str], overrides: Sequence[str], uri: str, method: str | None, stages: Sequence[str]
) -> Run:
    """Runs stages, telling each one's start and end; Ctrl-C ends with a line that says how to go on."""
    from trace_ray.pipeline import open_run, run_stages

    if files:
        config = load_config(files, overrides, method)
        run = open_run(uri, config)
    else:
        config, run = _as_begun(uri, overrides, method)
    try:
        run_stages(run, config, stages, *_tellers(run, config, stages), further=_round_tellers)
    except JudgeRejectedError:
        if run.report.exists():
            CONSOLE.print(Text(f"page: {run.report.uri}"), soft_wrap=True)
        raise
    except KeyboardInterrupt:
        code, word = interruption()
        print(f"trace-ray: {word}: what is finished is kept, and the same command goes on", file=sys.stderr)
        raise typer.Exit(code) from None
    return run


def _round_tellers(run: Run, config: Config) -> tuple[Callable[[str, str], None], Callable[[str, Told | None], None]]:
    """As ``_tellers``, of a further round of a run."""
    return _tellers(run, config, (ANSWERS, *STAGES), f"round {run.place.name}: ")


def _tellers(
    run: Run, config: Config, stages: Sequence[str], called: str = ""
) -> tuple[Callable[[str, str], None], Callable[[str, Told | None], None]]:
    """Returns what tells a stage's start and state, ``called`` before its name, and what tells how it ended."""
    alone = len(stages) == 1
    out = standard_output() if alone else CONSOLE  # a stage's tables are its result; a whole run's come at its end

    def note(stage: str, state: str) -> None:
        CONSOLE.print(f"{called}[bold]{stage}[/]: {state}")
        if state == "start" and stage == stages[0]:
            CONSOLE.print(Text(f"look on: trace-ray watch --run {run.shell_word}"), soft_wrap=True)
        if state == "start" and stage == "realign":
            tell_curves(CONSOLE, run, config)

    def ended(stage: str, told: Told | None) -> None:
        tell_end(out, run, config, stage, told, more=stage != stages[-1])
        if alone and told is not None:
            out.print(Text(f"page: {run.report.uri}"), soft_wrap=True)

    return note, ended


def _as_begun(uri: str, overrides: Sequence[str], method: str | None) -> tuple[Config, Run]:
    """Returns a run with the settings that it keeps in its folder."""
    from trace_ray.pipeline import run_folder, stored_config

    if method:
        raise UserError("--method", method, "the run has one; name it with -c to change settings, or another run")
    storage = load_storage(overrides)
    run = run_folder(uri, storage)
    stored = stored_config(run, uri)
    return replace(stored, storage=storage) if overrides else stored, run


def run(
    config: Files, run: RunUri, overrides: Overrides = None, method: Method = None, as_json: AsJson = False
) -> None:
    """All stages, in order; a stage that is done is left alone, an interrupted one goes on."""
    show_run(run_and_tell(config, overrides or [], run, method, STAGES), as_json=as_json)


def stage_command(stage: str, text: str) -> Callable[..., None]:
    """Returns the command that runs one stage; ``text`` is its help."""

    def command(run: RunUri, config: MaybeFiles = None, overrides: Overrides = None, method: Method = None) -> None:
        run_and_tell(config or [], overrides or [], run, method, [stage])

    command.__doc__ = text
    return command


triage = stage_command("triage", "Stage 1: judge every pair under the new policy.")
impact = stage_command("impact", "Stage 2: score and weigh the conflicts.")
realign = stage_command("realign", "Stage 3: train the adapter, export the model.")
evaluate = stage_command("evaluate", "Stage 4: answers of base and realigned model, judged.")
report = stage_command("report", "Stage 5: one HTML page.")
