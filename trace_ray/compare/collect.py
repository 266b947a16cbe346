"""From runs' folders to one comparable record each; nothing is computed anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trace_ray.compare.conditions import corpus_fact, run_settings, short, unlike_settings
from trace_ray.errors import UserError
from trace_ray.runs.artifacts import EVALUATION_METRICS, RESPONSES, Run, inputs_hash, read_json
from trace_ray.runs.memory import recorded_peak
from trace_ray.runtime.metrics import judge_tokens

UNCLEAR = ("unclear_failure", "unclear_success")
CIRCULAR = "judged by the judge of triage"
STAGES = ("triage", "impact", "realign", "evaluate")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is compared of one run; None or empty where the run did not measure it.

    Args:
        name: method and, where it is called otherwise, folder, or the whole path where two would be alike.
        tpa: {base | realigned: {group: percent}}, interval likewise; corrected, corrected_interval: the same, corrected for the
            errors of the run's judge; asr: {attack: percent} of the realigned model,
            asr_base of its base, asr_counts: {one of UNCLEAR: {model: {attack: percent}}}.
        drift: kl_to_base and perplexities; capability: as the harness.
        seconds, peak_bytes: by stage; tokens: judged and trained; facts: policy, base model, weight_norm and so on.
        settings: {dotted name: value} of all that can change a figure.
        lineage: the steps before this run.
    """

    name: str
    run: str
    method: str
    tpa: dict[str, dict[str, float]]
    interval: dict[str, dict[str, list[float]]]
    corrected: dict[str, dict[str, float]]
    corrected_interval: dict[str, dict[str, list[float]]]
    asr: dict[str, float]
    asr_base: dict[str, float]
    asr_counts: dict[str, dict[str, dict[str, float]]]
    drift: dict[str, float]
    capability: dict[str, Any]
    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    tokens: dict[str, int]
    facts: dict[str, str]
    settings: dict[str, str]
    lineage: list[dict[str, Any]]


def collect(run: Run) -> RunRecord:
    """Returns the record of a run whose evaluation is finished. Raises UserError otherwise."""
    run.evaluation.manifest()
    metrics = read_json(run.evaluation.place / EVALUATION_METRICS)
    folders = dict(zip(STAGES, (run.triaged, run.scored, run.model, run.evaluation), strict=True))
    manifests = {stage: artifact.manifest() for stage, artifact in folders.items()}
    triaged, scored, model = manifests["triage"], manifests["impact"], manifests["realign"]
    realign = run.realign.manifest()
    peaks = {stage: recorded_peak(artifact.place) for stage, artifact in folders.items()}
    attacks = metrics.get("attacks", {})
    asr = attacks.get("asr", {})
    return RunRecord(
        name=_name(model["method"], run.place.name),
        run=run.place.uri,
        method=model["method"],
        tpa=metrics["tpa"],
        interval=metrics.get("tpa_interval", {}),
        corrected=metrics.get("tpa_corrected", {}),
        corrected_interval=metrics.get("tpa_corrected_interval", {}),
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
        facts=_facts(run, manifests, metrics),
        settings=run_settings([triaged, scored, model, manifests["evaluate"]]),
        lineage=metrics.get("lineage", []),
    )


def _facts(run: Run, manifests: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Any]) -> dict[str, str]:
    triaged, scored = manifests["triage"], manifests["impact"]
    return {
        "policy": "{name} {version}, {hash}".format(**triaged["policy"]),
        "base model": str(manifests["realign"]["base model"]),
        "triage judge": str(triaged["judge"]),
        "evaluation judge": str(metrics["judge"]),
        "weight_norm": str(scored.get("weight_norm", "")),
        "pairs": str(triaged["counts"]["triaged"]),
        "corpus": corpus_fact(triaged),
        "label noise": ", ".join(f"{k} {v}" for k, v in sorted(scored.get("noise", {}).items())) or "none",
        "prompts": f"{metrics['n']['all']}, set {_prompt_set(run)}",
        "unclear answers under attack": str(metrics.get("attacks", {}).get("unclear_counts_as", "not asked")),
        CIRCULAR: "yes" if metrics.get("judge_is_triage_judge") else "no",
    }


def _name(method: str, folder: str) -> str:
    return method if method == folder else f"{method} ({folder})"


def _prompt_set(run: Run) -> str:
    """Six hex digits over which prompts were answered: equal numbers of others compare nothing."""
    parts = (run.evaluation.place / RESPONSES).files(".parquet")
    ids = sorted({pair for part in parts for pair in part.read_parquet(["pair_id"])["pair_id"].to_pylist()})
    return inputs_hash({"prompts": ids})[:6]


def differences(records: Sequence[RunRecord]) -> list[str]:
    """Returns a warning for each condition that makes the figures mean less than they seem to."""
    held_equal = (
        "policy",
        "base model",
        "triage judge",
        "evaluation judge",
        "corpus",
        "pairs",
        "label noise",
        "prompts",
    )
    found = []
    for name in (*held_equal, "unclear answers under attack"):
        seen = {record.facts[name] for record in records}
        if len(seen) > 1:
            found.append(f"the runs differ in {name}: {'; '.join(sorted(seen))}")
    for name, values in unlike_settings([r.method for r in records], [r.settings for r in records]).items():
        found.append(f"the runs differ in {name}: {'; '.join(sorted({short(value) for value in values}))}")
    found += _unlike_bases(records)
    circular = [record.name for record in records if record.facts[CIRCULAR] == "yes"]
    if circular:
        found.append(
            f"the judge of the answers was that of triage, whose errors count as success: {', '.join(circular)}"
        )
    return found


def _unlike_bases(records: Sequence[RunRecord]) -> list[str]:
    """One model asked the same prompts shows one figure, unless it was asked in another way."""
    found = []
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        same = seen.setdefault((record.facts["base model"], record.facts["prompts"]), {})
        same[record.name] = f"{record.tpa['base']['all']:.1f}"
    for (model, _), figures in seen.items():
        if len(set(figures.values())) > 1:
            told = "; ".join(f"{name} {figure}" for name, figure in figures.items())
            found.append(f"the same base model, {model}, shows another TPA in each: {told}")
    return found


def collect_all(runs: Sequence[Run]) -> list[RunRecord]:
    """Returns every run's record, each under a name of its own. Raises UserError where a run is named twice."""
    uris = [run.place.uri for run in runs]
    twice = {uri for uri in uris if uris.count(uri) > 1}
    if twice:
        raise UserError("compare", min(twice), "name each run once")
    records = [collect(run) for run in runs]
    names = [record.name for record in records]
    return [r if names.count(r.name) == 1 else replace(r, name=f"{r.method} ({r.run})") for r in records]
