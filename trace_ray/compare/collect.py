"""From runs' folders to one comparable record each; nothing is computed anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.artifacts import EVALUATION_METRICS, Run
from trace_ray.errors import UserError
from trace_ray.memory import recorded_peak
from trace_ray.metrics import judge_tokens

UNCLEAR = ("unclear_failure", "unclear_success")
STAGES = ("triage", "impact", "realign", "evaluate")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is compared of one run; None or empty where the run did not measure it.

    Args:
        name: method and, where it is called otherwise, folder; tpa: {base | realigned: {group: percent}}, interval
            likewise; asr: {attack: percent} of the realigned model, asr_base of its base, asr_counts: {one of UNCLEAR:
            {model: {attack: percent}}}; drift: kl_to_base and perplexities; capability: as the harness.
        seconds, peak_bytes: by stage; tokens: judged and trained; facts: policy, base model, weight_norm and so on.
        lineage: the steps before this run.
    """

    name: str
    run: str
    method: str
    tpa: dict[str, dict[str, float]]
    interval: dict[str, dict[str, list[float]]]
    asr: dict[str, float]
    asr_base: dict[str, float]
    asr_counts: dict[str, dict[str, dict[str, float]]]
    drift: dict[str, float]
    capability: dict[str, Any]
    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    tokens: dict[str, int]
    facts: dict[str, str]
    lineage: list[dict[str, Any]]


def collect(run: Run) -> RunRecord:
    """Returns the record of a run whose evaluation is finished. Raises UserError otherwise."""
    run.evaluation.manifest()
    metrics = json.loads((run.evaluation.place / EVALUATION_METRICS).read_text())
    folders = dict(zip(STAGES, (run.triaged, run.scored, run.model, run.evaluation), strict=True))
    manifests = {stage: artifact.manifest() for stage, artifact in folders.items()}
    triaged, scored, model = manifests["triage"], manifests["impact"], manifests["realign"]
    realign = run.realign.manifest()
    peaks = {stage: recorded_peak(artifact.place) for stage, artifact in folders.items()}
    attacks = metrics.get("attacks", {})
    asr = attacks.get("asr", {})
    method, folder = model["method"], run.place.name
    return RunRecord(
        name=method if method == folder else f"{method} ({folder})",
        run=run.place.uri,
        method=method,
        tpa=metrics["tpa"],
        interval=metrics.get("tpa_interval", {}),
        asr=asr.get("realigned", {}),
        asr_base=asr.get("base", {}),
        asr_counts={name: attacks.get(f"asr_{name}", {}) for name in UNCLEAR},
        drift=metrics.get("drift", {}),
        capability=metrics.get("capability", {}),
        seconds={stage: float(manifest["seconds"]) for stage, manifest in manifests.items()},
        peak_bytes={stage: peak for stage, peak in peaks.items() if peak is not None},
        tokens={
            "judged": judge_tokens(triaged.get("used", {})) or 0,
            "trained": int(realign.get("tokens", 0)),
        },
        facts={
            "policy": f"{triaged['policy']['name']} {triaged['policy']['version']}",
            "base model": str(model["base model"]),
            "triage judge": str(triaged["judge"]),
            "evaluation judge": str(metrics["judge"]),
            "weight_norm": str(scored.get("weight_norm", "")),
            "pairs": str(triaged["counts"]["triaged"]),
            "prompts": str(metrics["n"]["all"]),
        },
        lineage=metrics.get("lineage", []),
    )


def differences(records: Sequence[RunRecord]) -> list[str]:
    """Returns a warning for each condition in which the runs differ, so that no one reads more than there is."""
    held_equal = ("policy", "base model", "evaluation judge", "pairs", "prompts")
    found = []
    for name in held_equal:
        seen = {record.facts[name] for record in records}
        if len(seen) > 1:
            found.append(f"the runs differ in {name}: {', '.join(sorted(seen))}")
    return found


def collect_all(runs: Sequence[Run]) -> list[RunRecord]:
    """Returns every run's record. Raises UserError where a run is named twice."""
    uris = [run.place.uri for run in runs]
    twice = {uri for uri in uris if uris.count(uri) > 1}
    if twice:
        raise UserError("compare", min(twice), "name each run once")
    return [collect(run) for run in runs]
