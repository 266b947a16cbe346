"""`trace-ray compare`: finished runs side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trace_ray.cli.options import AsJson, parted
from trace_ray.cli.output import standard_output
from trace_ray.cli.tables import comparison_table
from trace_ray.config.load import load_storage
from trace_ray.runtime.progress import CONSOLE, warn
from trace_ray.storage.jsonl import strict_json


def compare(
    runs: Annotated[list[str], typer.Argument(help="folders of finished runs; also storage.key=value")],
    html: Annotated[Path | None, typer.Option("--html", help="also write one self-contained page")] = None,
    as_json: AsJson = False,
) -> None:
    """Finished runs side by side: agreement, attacks, drift, capability, cost."""
    from trace_ray.compare.answers import realigned_answers
    from trace_ray.compare.collect import collect_all, differences
    from trace_ray.compare.page import comparison_page
    from trace_ray.compare.table import comparison
    from trace_ray.pipeline import run_folder

    uris, overrides = parted(runs)
    storage = load_storage(overrides)
    folders = [run_folder(uri, storage) for uri in uris]
    records = collect_all(folders)
    if html:  # first: a broken pipe behind the table must not cost the page
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(comparison_page(records, [realigned_answers(run) for run in folders]), encoding="utf-8")
    if as_json:
        print(strict_json([asdict(record) for record in records], indent=1))
    else:
        standard_output().print(comparison_table([record.name for record in records], comparison(records)))
    for warning in differences(records):
        warn(warning)
    if html:
        CONSOLE.print(f"page: {html}", soft_wrap=True, markup=False, emoji=False)
