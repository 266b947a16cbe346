"""A finished run in one small structure: what the terminal and the report show."""

from __future__ import annotations

from typing import Any

from trace_ray.config import ReportConfig
from trace_ray.runs.artifacts import EVALUATION_METRICS, STAGES, Run, read_json
from trace_ray.runs.damage import damages
from trace_ray.runs.rounds import rounds_summary


def run_summary(run: Run, limits: ReportConfig | None = None) -> dict[str, Any]:
    """Returns rows by category, the audit, TPA before and after, and seconds by stage; missing where not yet made.

    ``rounds`` is TPA round by round (``rounds.rounds_summary``), of a run that has several.

    Args:
        limits: beyond which ``damage`` says that the model is damaged; None = the defaults.
    """
    summary: dict[str, Any] = {"seconds": {}}
    folders = dict(zip(STAGES, (run.triaged, run.scored, run.model, run.evaluation), strict=False))
    for stage, artifact in folders.items():
        if artifact.done():
            summary["seconds"][stage] = artifact.manifest()["seconds"]
    if run.triaged.done():
        manifest = run.triaged.manifest()
        summary |= {"counts": manifest["counts"], "audit": manifest["audit"], "policy": manifest["policy"]}
        summary["triage_judge"] = manifest["judge"]
    if run.evaluation.done():
        summary["evaluation"] = read_json(run.evaluation.place / EVALUATION_METRICS)
        summary["damage"] = [harm.said() for harm in damages(summary["evaluation"], limits or ReportConfig())]
    if rounds := rounds_summary(run):
        summary["rounds"] = rounds
    return summary
