"""`trace-ray audit`: the triage judge against labels that people gave."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from trace_ray.cli.options import RunUri, StorageOverrides
from trace_ray.config.check import check_config
from trace_ray.config.load import load_storage
from trace_ray.storage.jsonl import strict_json
from trace_ray.storage.location import locate


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
    from trace_ray.judges.against_labels import without_curve
    from trace_ray.pipeline import run_folder, stored_config
    from trace_ray.triage.audit import audit_run

    opened = run_folder(run, load_storage(overrides or []))
    settings = stored_config(opened, run)
    triage = replace(settings.triage, audit_labels=labels, audit_file="")
    triage = replace(triage, calibration=calibration) if calibration else triage
    triage = replace(triage, false_invert_rate=false_invert_rate) if false_invert_rate else triage
    check_config(replace(settings, triage=triage))
    print(strict_json(without_curve(audit_run(opened, triage, locate(labels, settings.storage))), indent=1))
