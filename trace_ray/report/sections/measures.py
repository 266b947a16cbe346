"""What evaluation measured beside agreement: attacks, capability, drift; as rows of text, those that were stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trace_ray.pairs import MODELS


@dataclass(frozen=True)
class Measure:
    """One line of a table; ``tone`` is bad where the realigned model is beyond a limit."""

    name: str
    base: str
    realigned: str
    tone: str = ""


def other_measures(metrics: Mapping[str, Any], damaged: Collection[str] = ()) -> dict[str, list[Measure]]:
    """Returns title -> lines of what metrics.json holds; ``damaged``: which of drift, perplexity and diversity are bad."""
    tables = {
        "Agreement corrected for the judge's errors on labelled responses": corrected(metrics),
        "Attacks: share of harmful requests that get a violating answer": attacks(metrics.get("attacks") or {}),
        "Capability": capability(metrics.get("capability") or {}),
        "Drift on answers that were to be kept": drift(metrics.get("drift") or {}, damaged),
        "Diversity of the answers": diversity(metrics.get("diversity") or {}, damaged),
    }
    return {title: lines for title, lines in tables.items() if lines}


def corrected(metrics: Mapping[str, Any]) -> list[Measure]:
    """Returns the agreement of each group corrected for what the judge gets wrong, with its interval, and what that is."""
    shares: Mapping[str, Mapping[str, float]] = metrics.get("tpa_corrected", {})
    if not shares:
        return []

    def cell(model: str, group: str) -> str:
        low, high = metrics["tpa_corrected_interval"][model][group]
        return f"{shares[model][group]:.1f} % ({low:.0f}–{high:.0f})"  # noqa: RUF001 - a range

    groups = sorted(shares["base"], key=lambda group: (group != "all", group))
    audit = metrics["judge_audit"]
    right = [f"{audit[f'{kind}_called_so']} of {audit[kind]}" for kind in ("violating", "compliant")]
    told = Measure(
        "the judge: violating and compliant responses called so", f"violating {right[0]}", f"compliant {right[1]}"
    )
    lines = [*(Measure(group, cell("base", group), cell("realigned", group)) for group in groups), told]
    if (
        audit.get("auc") is None or audit.get("kappa") is None
    ):  # not both kinds read, or judged before these were measured
        return lines
    return [
        *lines,
        Measure(f"the judge on labelled {audit['of']}", f"AUC {audit['auc']:.3f}", f"kappa {audit['kappa']:.3f}"),
    ]


def attacks(figures: Mapping[str, Any]) -> list[Measure]:
    """Returns the attack success rate of each attack with its interval, and by both counts where answers were unclear."""
    rates: Mapping[str, Mapping[str, float]] = figures.get("asr", {})
    names = sorted(rates.get("realigned", {}), key=lambda name: (name != "plain", name))
    counted = figures.get("unclear_counts_as", "")
    other = "failure" if counted == "success" else "success"

    def cell(model: str, attack: str) -> str:
        low, high = figures["asr_interval"][model][attack]
        shown = f"{rates[model][attack]:.1f} % ({low:.0f}–{high:.0f})"  # noqa: RUF001 - a range
        if not figures["unclear"][model][attack]:
            return shown
        return f"{shown}, as {other} {figures[f'asr_unclear_{other}'][model][attack]:.1f} %"

    lines = []
    for name in names:
        n, unclear = figures["n"]["realigned"][name], sum(figures["unclear"][model][name] for model in MODELS)
        note = f", {unclear} unclear count as {counted}" if unclear else ""
        lines.append(Measure(f"{name} ({n} requests{note})", cell("base", name), cell("realigned", name)))
    return lines


def capability(figures: Mapping[str, Any]) -> list[Measure]:
    """Returns each task's metrics with standard errors, as lm-evaluation-harness reports them."""
    results = {model: figures.get(model, {}).get("results", {}) for model in MODELS}

    def cell(model: str, task: str, metric: str) -> str:
        found = results[model].get(task, {}).get(metric)
        if found is None:
            return "–"  # noqa: RUF001 - a dash
        return f"{found['value']:.3f}" + (f" ± {found['stderr']:.3f}" if found["stderr"] is not None else "")

    pairs: Sequence[tuple[str, str]] = [(t, m) for t, metrics in sorted(results["realigned"].items()) for m in metrics]
    return [
        Measure(f"{task} {metric}", cell("base", task, metric), cell("realigned", task, metric))
        for task, metric in pairs
    ]


def diversity(figures: Mapping[str, float], damaged: Collection[str] = ()) -> list[Measure]:
    """Returns how little each model repeats itself."""
    if not figures:
        return []
    base, realigned = (f"{100 * figures[model]:.1f} %" for model in MODELS)
    return [Measure("word pairs that an answer does not repeat", base, realigned, _tone("diversity", damaged))]


def _tone(measure: str, damaged: Collection[str]) -> str:
    return "bad" if measure in damaged else ""


def drift(figures: Mapping[str, Any], damaged: Collection[str] = ()) -> list[Measure]:
    """Returns how far the realigned model moved on RETAIN answers."""
    if not figures:
        return []
    return [
        Measure("KL to the base, nats a token", "0", f"{figures['kl_to_base']:.4f}", _tone("drift", damaged)),
        Measure(
            "perplexity",
            f"{figures['ppl_base']:.3f}",
            f"{figures['ppl_realigned']:.3f}",
            _tone("perplexity", damaged),
        ),
    ]
