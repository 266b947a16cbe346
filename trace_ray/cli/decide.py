"""`trace-ray decide`: what verdicts mean, decided again on a run, without judging."""

from __future__ import annotations

from typing import Annotated

import typer

from trace_ray.config.load import load_config, load_storage
from trace_ray.runs.artifacts import CONFIG, STAGES
from trace_ray.runtime.progress import CONSOLE, warn


def decide(
    run: Annotated[str, typer.Option("--run", help="a run whose triage has finished: a path or s3://bucket/prefix")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="triage.key=value of deciding: threshold, abstain_band, review_labels, min_auc, ..."),
    ] = None,
) -> None:
    """Categories again from the stored verdicts: other threshold, band, labels or limits, and no response judged.

    Stages made of the earlier decision then refuse to go on until their folders are deleted.
    """
    from trace_ray.pipeline import decide_run, run_folder, stored_config

    given = overrides or []
    opened = run_folder(run, load_storage([text for text in given if text.startswith("storage.")]))
    before = stored_config(opened, run)
    if not decide_run(opened, before, load_config([(opened.place / CONFIG).uri], given)):
        CONSOLE.print("decided by these settings already")
        return
    manifest = opened.triaged.manifest()
    shown = {name: value for name, value in manifest["counts"].items() if name.startswith("train ")}
    print("decided again, nothing judged: " + ", ".join(f"{name} {value:,}" for name, value in sorted(shown.items())))
    old = [artifact.name for stage in STAGES[1:] for artifact in opened.made_by(stage) if artifact.done()]
    if old:
        folders = ", ".join(f"{opened.place.uri}/{name}" for name in old)
        warn(f"made of the earlier decision, delete before they are made again: {folders}")
