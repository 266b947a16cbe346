"""`trace-ray runs list` and `trace-ray show`: the runs in a folder, and one pair of a run."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from trace_ray.cli.options import AsJson, RunUri, StorageOverrides
from trace_ray.cli.output import standard_output
from trace_ray.config.load import load_storage
from trace_ray.storage.jsonl import strict_json
from trace_ray.storage.location import locate

runs_app = typer.Typer(no_args_is_help=True, help="The runs in a folder.")


@runs_app.command(name="list", epilog="Example: trace-ray runs list s3://bucket/runs")
def list_runs(
    uri: Annotated[str, typer.Argument(help="folder of runs: a path or s3://bucket/prefix")] = "runs",
    overrides: StorageOverrides = None,
    as_json: AsJson = False,
) -> None:
    """Each run with its policy, method, model, and how far it is."""
    from trace_ray.runs.listing import runs_in

    rows = list(runs_in(locate(uri, load_storage(overrides or []))))
    if as_json:
        print(strict_json(rows, indent=1))
        return
    table = Table("run", "policy", "method", "model", "state", box=None)
    for row in rows:
        table.add_row(*(Text(value) for value in row.values()))
    standard_output().print(table)


def show(
    pair: Annotated[
        str, typer.Argument(metavar="PAIR_ID", help="as in triaged/ and in the report; its beginning will do")
    ],
    run: RunUri,
    overrides: StorageOverrides = None,
    as_json: AsJson = False,
) -> None:
    """Everything a run knows of one pair: text, verdicts, category, score, weight, both models' answers."""
    from trace_ray.pipeline import run_folder
    from trace_ray.runs.one_pair import pair_record

    record = pair_record(run_folder(run, load_storage(overrides or [])), pair)
    if as_json:
        print(strict_json(record, indent=1))
        return
    for part, rows in record.items():
        for row in rows if isinstance(rows, list) else [rows]:
            print(part)
            for name, value in row.items():
                if value is not None:
                    print(f"  {name}: {_shown(value)}")


def _shown(value: Any) -> str:
    """A value as people read it; what would steer a terminal is spelt out, turns and paragraphs keep their lines."""
    text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in value) if _is_dialogue(value) else str(value)
    plain = "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
    return plain.replace("\n", "\n    ")


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]
