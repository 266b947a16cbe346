"""The model card: what was trained, on what, under which policy, and under whose licence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trace_ray.config import Config, ReportConfig
from trace_ray.realign.card_results import limit_lines, model_index, result_lines, use_lines
from trace_ray.runs.artifacts import Run
from trace_ray.runs.code_version import code_version
from trace_ray.storage.staging import local_model

LICENCE_FIELDS = ("license", "license_name", "license_link")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card_facts(run: Run, config: Config, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the card tells, by name."""
    triaged, scored = run.triaged.manifest(), run.scored.manifest()
    policy = triaged["policy"]
    last = metrics[-1] if metrics else {}
    ended = {name: round(value, 4) for name, value in last.items() if name.endswith(("/loss", "/margin"))}
    return {
        "base model": config.model.path,
        "base revision": config.model.revision,
        "method": config.objective.method,
        "trained": "LoRA adapter, merged" if config.realign.tune == "lora" else "all weights",
        "policy": f"{policy['name']} version {policy['version']} ({policy['hash']})",
        "pairs": triaged["inputs_hash"],
        "scored pairs": scored["inputs_hash"],
        "trained rows": json.dumps(scored["counts"]),
        "steps": len(metrics),
        "tokens": sum(row["tokens"] for row in metrics),
        "at the last step": json.dumps(ended),
        "made by": f"trace-ray {code_version()}",
    }


def base_licence(model: str) -> dict[str, str]:
    """Returns the licence fields of a base model's own card, none where it has none that can be read.

    Args:
        model: folder, also on S3, or id of a hub.
    """
    folder = Path(local_model(model))
    readme = folder / "README.md"
    if not readme.is_file():
        if folder.is_dir():
            return {}
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            readme = Path(hf_hub_download(model, "README.md"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            return {}
    return licence_fields(readme.read_text(encoding="utf-8", errors="replace"))


def on_hub(model: str) -> bool:
    """Returns whether this is a model's name on a hub, which refuses a card that names a folder as its base.

    >>> on_hub("org/base-7B"), on_hub("/models/base"), on_hub("./base"), on_hub("s3://lake/base")
    (True, False, False, False)
    """
    return _HUB_ID.fullmatch(model) is not None and not Path(model).is_dir()


def licence_fields(text: str) -> dict[str, str]:
    r"""Returns the licence fields of a card's front matter.

    >>> licence_fields("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model")
    {'license': 'apache-2.0'}
    """
    parts = text.split("---\n")
    if not text.startswith("---\n") or len(parts) < 3:
        return {}
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return {name: str(front[name]) for name in LICENCE_FIELDS if name in front} if isinstance(front, dict) else {}


def model_card(
    facts: dict[str, Any],
    licence: dict[str, str],
    *,
    name: str = "",
    metrics: Mapping[str, Any] | None = None,
    limits: ReportConfig | None = None,
) -> str:
    """Returns the card: front matter with the results as model-index, intended use, results, limits, a line a fact.

    Args:
        name: of the model on a hub; metrics: metrics.json of its evaluation, None before one is done.
        limits: beyond which a model counts as damaged; None = the defaults.
    """
    base, policy = facts["base model"], facts["policy"]
    front: dict[str, Any] = {"base_model": base} if on_hub(base) else {}
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    front |= {"tags": ["trace-ray", "realigned"], **licence}
    if metrics and name:
        front["model-index"] = model_index(name, policy, metrics)
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", ""]
    lines += [f"# Realigned with trace-ray ({facts['method']})", ""]
    lines += ["## Intended use", "", *use_lines(base, policy), ""]
    lines += ["## Results", "", *result_lines(metrics), ""] if metrics else []
    lines += ["## Limits", "", *limit_lines(metrics, limits or ReportConfig()), ""]
    lines += ["## How it was made", ""]
    lines += [f"- {fact}: {value}" for fact, value in facts.items()]
    named = f"the base model's: {licence['license']}" if "license" in licence else "the base model's; see there"
    return "\n".join([*lines, "", f"Its licence is {named}.", ""])
