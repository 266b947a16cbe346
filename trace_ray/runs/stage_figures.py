"""What trackers are told of the stages around training: the corpus by category, its judge, and the evaluated model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trace_ray.pairs import Category, Split
from trace_ray.runs.artifacts import EVALUATION_METRICS, Run, read_json
from trace_ray.runs.figures import training_figures

Figures = dict[str, float]
CORRECTED = "tpa_corrected"
_AUDIT = ("auc", "kappa", "agreement", "false_invert_rate")


def stage_figures(run: Run, stage: str) -> tuple[int, Figures] | None:
    """Returns the step at which a finished stage's figures stand among training's, and the figures by name.

    Triage stands before the first step, evaluation at the last one; None of the stages that tell figures themselves.
    """
    match stage:
        case "triage":
            return 0, {f"triage/{name}": value for name, value in _of_triage(run.triaged.manifest())}
        case "evaluate":
            metrics = read_json(run.evaluation.place / EVALUATION_METRICS)
            last = next((int(row["step"]) for row in reversed(training_figures(run))), 0)
            return last, {f"evaluation/{name}": value for name, value in _of_evaluation(metrics)}
    return None


def _of_triage(manifest: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields pairs by category, rows refused, and what the audit measured."""
    counts = manifest["counts"]
    for category in Category:
        yield category, sum(counts.get(f"{split} {category}", 0) for split in Split)
    for name in ("rows_in", "rejects"):
        yield name, counts.get(name, 0)
    audit = manifest.get("audit") or {}
    yield from ((name, float(audit[name])) for name in _AUDIT if audit.get(name) is not None)


def _of_evaluation(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields agreement, corrected too, and attacks by model and group; drift, diversity and the judge, as far as measured."""
    asr = (metrics.get("attacks") or {}).get("asr", {})
    for measure, found in (("tpa", metrics["tpa"]), (CORRECTED, metrics.get(CORRECTED, {})), ("asr", asr)):
        for model, groups in found.items():
            yield from ((f"{measure}/{model}/{group}", float(value)) for group, value in groups.items())
    for measure in ("drift", "diversity"):
        yield from ((f"{measure}/{name}", float(value)) for name, value in (metrics.get(measure) or {}).items())
    judge = metrics.get("judge_audit") or {}
    yield from ((f"judge/{name}", float(judge[name])) for name in _AUDIT if judge.get(name) is not None)
