"""One table, methods side by side, the same for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trace_ray.compare.collect import STAGES, UNCLEAR, RunRecord
from trace_ray.compare.conditions import short, unlike_settings
from trace_ray.pairs import MODELS

MISSING = "-"
CORRECTED = "TPA corrected for the judge's errors, %"
Agreement = tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, list[float]]]]
"""Of one run {model: {group: percent}}, and the intervals of the same."""
DRIFT = (
    ("kl_to_base", "KL to base, nats a token", ".4f"),
    ("ppl_base", "perplexity of RETAIN answers, base", ".3f"),
    ("ppl_realigned", "perplexity of RETAIN answers", ".3f"),
)


@dataclass(frozen=True)
class Line:
    """A measure and its value for each run, as text."""

    section: str
    name: str
    values: list[str]


def comparison(records: Sequence[RunRecord]) -> list[Line]:
    """Returns the lines of the table: agreement, ASR, drift, capability, cost, unlike settings; what no run has is left out."""
    lines = _agreement("TPA, %", [(r.tpa, r.interval) for r in records])
    lines += _agreement(CORRECTED, [(r.corrected, r.corrected_interval) for r in records])
    for attack in _names([r.asr for r in records], first="plain"):
        lines.append(Line("ASR, %", f"{attack}: base", [_number(r.asr_base.get(attack), ".1f") for r in records]))
        lines.append(Line("ASR, %", f"{attack}: realigned", [_number(r.asr.get(attack), ".1f") for r in records]))
        for model in MODELS:
            values = [_both_counts(r, model, attack) for r in records]
            lines.append(Line("ASR, %", f"{attack}: {model}, unclear as failure / success", values))
    for key, name, form in DRIFT:
        lines.append(Line("drift", name, [_number(r.drift.get(key), form) for r in records]))
    for task, metric in _harness_names(records):
        for model in MODELS:
            values = [_harness(r, model, task, metric) for r in records]
            lines.append(Line("capability", f"{task} {metric}: {model}", values))
    lines += [Line("seconds", stage, [_number(r.seconds.get(stage), ".0f") for r in records]) for stage in STAGES]
    for stage in STAGES:
        lines.append(Line("peak memory, GiB", stage, [_number(_gib(r.peak_bytes.get(stage)), ".2f") for r in records]))
    for key, name in (("judged", "judged in triage"), ("trained", "trained on")):
        lines.append(Line("tokens", name, [_number(r.tokens[key], ",d") for r in records]))
    unlike = unlike_settings([r.method for r in records], [r.settings for r in records])
    lines += [Line("settings that differ", name, [short(value) for value in values]) for name, values in unlike.items()]
    return [line for line in lines if any(value != MISSING for value in line.values)]


def _names(measures: Sequence[Mapping[str, float]], first: str) -> list[str]:
    seen = sorted({name for measure in measures for name in measure})
    return sorted(seen, key=lambda name: (name != first, name))


def _harness_names(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    return sorted(
        {
            (task, metric)
            for record in records
            for figures in record.capability.values()
            for task, metrics in figures["results"].items()
            for metric in metrics
        }
    )


def _harness(record: RunRecord, model: str, task: str, metric: str) -> str:
    found = record.capability.get(model, {}).get("results", {}).get(task, {}).get(metric)
    if found is None:
        return MISSING
    error = found["stderr"]
    return f"{found['value']:.3f}" if error is None else f"{found['value']:.3f} ± {error:.3f}"


def _agreement(section: str, figures: Sequence[Agreement]) -> list[Line]:
    """Returns a line of the base, and of the realigned model one of each group."""
    lines = [Line(section, "base", [_tpa(run, "base", "all") for run in figures])]
    for group in _names([shares.get("realigned", {}) for shares, _ in figures], first="all"):
        name = "realigned" if group == "all" else f"  {group}"
        lines.append(Line(section, name, [_tpa(run, "realigned", group) for run in figures]))
    return lines


def _tpa(figures: Agreement, model: str, group: str) -> str:
    shares, intervals = figures
    value, interval = shares.get(model, {}).get(group), intervals.get(model, {}).get(group)
    if value is None:
        return MISSING
    return f"{value:.1f}" if interval is None else f"{value:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _both_counts(record: RunRecord, model: str, attack: str) -> str:
    """Returns both counts where unclear answers make a difference."""
    low, high = (record.asr_counts[name].get(model, {}).get(attack) for name in UNCLEAR)
    return MISSING if low is None or high is None or low == high else f"{low:.1f} / {high:.1f}"


def _gib(number: int | None) -> float | None:
    return None if number is None else number / 2**30


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)
