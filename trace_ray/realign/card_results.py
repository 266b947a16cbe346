"""What an evaluation adds to a model card: results, for people and as the hub's model-index, limits and intended use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trace_ray.config import ReportConfig
from trace_ray.runs.damage import FEW_PROMPTS, damages


def model_index(name: str, policy: str, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the hub's model-index of what metrics.json holds of the realigned model: its agreement by group, its attacks.

    Source: the model card metadata of huggingface_hub (``EvalResult``).
    """
    dataset = {"name": f"held-out prompts, policy {policy}", "type": "held-out-prompts"}
    figures = [
        {"type": "target_policy_agreement", "name": f"Target policy agreement, %, {group}", "value": round(value, 2)}
        for group, value in metrics["tpa"]["realigned"].items()
    ]
    for attack, value in (metrics.get("attacks") or {}).get("asr", {}).get("realigned", {}).items():
        figures.append({"type": "attack_success_rate", "name": f"ASR, %, {attack}", "value": round(value, 2)})
    task = {"type": "text-generation", "name": "Text generation"}
    return [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": figures}]}]


def result_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yields the results as Markdown: agreement before and after, attacks, drift, capability; those that were measured."""
    yield "| answers that comply, % | prompts | base | realigned |"
    yield "|---|---|---|---|"
    for group, number in sorted(metrics["n"].items(), key=lambda counted: (counted[0] != "all", counted[0])):
        base, after = (metrics["tpa"][model][group] for model in ("base", "realigned"))
        yield f"| {group} | {number} | {base:.1f} | {after:.1f} |"
    yield ""
    rates = (metrics.get("attacks") or {}).get("asr", {})
    for attack, after in rates.get("realigned", {}).items():
        before = rates.get("base", {}).get(attack)
        yield f"- attack success rate, {attack}: {'not measured' if before is None else f'{before:.1f} %'} to {after:.1f} %"
    if drift := metrics.get("drift"):
        yield f"- KL to the base on answers to keep: {drift['kl_to_base']:.4f} nats a token"
    for task, found in (metrics.get("capability") or {}).get("realigned", {}).get("results", {}).items():
        for metric, measured in found.items():
            yield f"- {task} {metric}: {measured['value']:.3f}"
    yield f"- judged by {metrics['judge']}"


def limit_lines(metrics: Mapping[str, Any] | None, limits: ReportConfig) -> Iterator[str]:
    """Yields what a reader of the results must know."""
    if metrics is None:
        yield "- It was not evaluated."
        return
    for damage in damages(metrics, limits):
        yield f"- The model is damaged: {damage.said()}."
    if metrics.get("judge_is_triage_judge"):
        yield "- The judge of the answers judged the training pairs too: its errors do not show in the results."
    elif metrics["judge"] != "rules":
        yield "- The judge of the answers is a model that was not compared with people."
    for name, text in (("drift", "Drift from the base"), ("attacks", "Attacks"), ("capability", "Capability")):
        if not metrics.get(name):
            yield f"- {text} {'were' if name == 'attacks' else 'was'} not measured."
    few = sorted(group for group, number in metrics["n"].items() if number < FEW_PROMPTS)
    if few:
        yield f"- Fewer than {FEW_PROMPTS} prompts: {', '.join(few)}."
    yield "- Agreement is measured on prompts like those it was trained on; elsewhere it may comply less."


def use_lines(base: str, policy: str) -> Iterator[str]:
    """Yields what the model is for."""
    yield f"The base model {base}, realigned so that its answers follow the policy {policy}. It is meant for the uses of"
    yield "its base model where that policy holds, after a test on the prompts that it is to meet there; it is no guard"
    yield "against misuse, and no replacement for one."
