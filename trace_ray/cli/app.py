"""`trace-ray`: thin commands over the pipeline. Exit 0 only if every asked stage is complete; 2 for a user's mistake.

Each command is a file of this folder and a line of ``COMMANDS``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, NamedTuple

import typer
from typer.exceptions import TyperException

from trace_ray import __version__
from trace_ray.cli.audit import audit
from trace_ray.cli.check import check
from trace_ray.cli.compare import compare
from trace_ray.cli.conf import conf_app
from trace_ray.cli.decide import decide
from trace_ray.cli.export import export_answers, export_scored, export_trained, import_gguf, push
from trace_ray.cli.hints import hint
from trace_ray.cli.label import label_app
from trace_ray.cli.output import MISTAKE, interruption
from trace_ray.cli.plan import plan
from trace_ray.cli.rate import rating_app
from trace_ray.cli.runs import runs_app, show
from trace_ray.cli.stages import evaluate, impact, realign, report, run, triage
from trace_ray.cli.start import demo, init
from trace_ray.cli.status import status
from trace_ray.cli.watch import watch
from trace_ray.cluster.own_job import stop_for_a_mistake
from trace_ray.runtime.endings import told
from trace_ray.runtime.progress import CONSOLE

DEBUG = "TRACE_RAY_DEBUG"
FLAGS = ("--debug", "--quiet")
"""Read before the command, and so moved there from wherever they were typed."""
HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, context_settings=HELP)


class Entry(NamedTuple):
    """A command: the heading of the help it stands under, its name, what it calls, and one call as an example."""

    group: str
    name: str
    command: Callable[..., None] | typer.Typer
    example: str


START, STAGE, INSPECT, EXCHANGE = "Start", "Stages", "Inspect", "Exchange"
COMMANDS = (
    Entry(START, "demo", demo, "trace-ray demo"),
    Entry(START, "init", init, "trace-ray init my.yaml"),
    Entry(START, "conf", conf_app, "trace-ray conf show examples/demo"),
    Entry(START, "check", check, "trace-ray check pairs.jsonl"),
    Entry(START, "plan", plan, "trace-ray plan -c my.yaml"),
    Entry(STAGE, "run", run, "trace-ray run -c my.yaml --run runs/first"),
    Entry(STAGE, "triage", triage, "trace-ray triage -c my.yaml --run runs/first"),
    Entry(STAGE, "impact", impact, "trace-ray impact -c my.yaml --run runs/first"),
    Entry(STAGE, "realign", realign, "trace-ray realign -c my.yaml --run runs/first"),
    Entry(STAGE, "evaluate", evaluate, "trace-ray evaluate --run runs/first"),
    Entry(STAGE, "report", report, "trace-ray report --run runs/first"),
    Entry(INSPECT, "status", status, "trace-ray status --run runs/first --watch"),
    Entry(INSPECT, "watch", watch, "trace-ray watch --run runs/first"),
    Entry(INSPECT, "runs", runs_app, "trace-ray runs list runs"),
    Entry(INSPECT, "show", show, "trace-ray show 3f0c2f1e --run runs/first"),
    Entry(INSPECT, "audit", audit, "trace-ray audit --labels labels.jsonl --run runs/first"),
    Entry(INSPECT, "decide", decide, "trace-ray decide --run runs/first triage.threshold=0.6"),
    Entry(INSPECT, "label", label_app, "trace-ray label sample --run runs/first --out labels.html"),
    Entry(INSPECT, "compare", compare, "trace-ray compare runs/first runs/second --html compare.html"),
    Entry(INSPECT, "rate", rating_app, "trace-ray rate export runs/first --out runs/ratings"),
    Entry(EXCHANGE, "export", export_trained, "trace-ray export --run runs/first"),
    Entry(EXCHANGE, "push", push, "trace-ray push --run runs/first --to me/realigned"),
    Entry(EXCHANGE, "export-pairs", export_scored, "trace-ray export-pairs exported --run runs/first"),
    Entry(EXCHANGE, "export-answers", export_answers, "trace-ray export-answers logs --run runs/first"),
    Entry(EXCHANGE, "import-gguf", import_gguf, "trace-ray import-gguf models/mine --file mine.gguf"),
)
EXAMPLES = {entry.name: entry.example for entry in COMMANDS}
for _entry in COMMANDS:
    _epilog = f"Example: {_entry.example}"
    if isinstance(_entry.command, typer.Typer):
        app.add_typer(_entry.command, name=_entry.name, rich_help_panel=_entry.group, epilog=_epilog)
    else:
        app.command(name=_entry.name, rich_help_panel=_entry.group, epilog=_epilog)(_entry.command)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"trace-ray {__version__}")
        raise typer.Exit


@app.callback(epilog="Of each command `trace-ray COMMAND -h` tells the options, with an example: trace-ray run -h")
def options(
    debug: Annotated[bool, typer.Option("--debug", help="stack traces and the workers' logs")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, only results, warnings and errors")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print it and end")
    ] = False,
) -> None:
    """Realigns a language model to a changed policy with the preference pairs it was aligned on.

    Exit code 0: all that was asked is complete; 2: a mistake, said in one line; 1: a fault of ours or of the machine.
    """
    if debug:
        os.environ[DEBUG] = "1"
    CONSOLE.quiet = quiet


def main() -> None:
    """Runs the command line: whatever goes wrong is one line, with its trace only under --debug; exit code 2 for mistakes."""
    words = sys.argv[1:]
    sys.argv[1:] = [word for word in words if word in FLAGS] + [word for word in words if word not in FLAGS]
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(interruption()[0])
    except TyperException as error:  # a command that could not be read; without any, its help was shown
        if said := " ".join(error.format_message().split()):
            print(f"trace-ray: {said} {hint(sys.argv[1:], EXAMPLES)}", file=sys.stderr, flush=True)
            stop_for_a_mistake()
        sys.exit(MISTAKE)
    except Exception as error:  # the last door: what passes it would be a page of traces
        if os.environ.get(DEBUG) == "1":
            raise
        code, said = told(error)
        print(f"trace-ray: {said}", file=sys.stderr)
        sys.stderr.flush()
        if code == MISTAKE:
            stop_for_a_mistake()
        sys.exit(code)
