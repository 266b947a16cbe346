"""Under which settings and on what data a run was made: what must be alike for figures to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trace_ray.runs.artifacts import inputs_hash

MEASURED = ("evaluate.", "model.", "triage.", "lora.", "realign.", "impact.", "objective.")
"""Sections whose settings change a figure, in the order they are told."""

_SHOWN_OTHERWISE = ("model.path", "model.revision", "triage.judge.model", "evaluate.judge.model")
_CHARACTERS = 60
_FILES = "model files"
_DAY = ".chat_template_date"
_METHOD = ("objective.", "triage.correct")
"""What rows of conf/methods set."""


def run_settings(manifests: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns {setting's name: value} of all that a run's stages were made under, later stages' winning.

    What is told in other words (base model, judges, corpus), what stands for earlier stages and the day of each run, which
    few templates write, is left out.
    """
    inputs = {name: value for manifest in manifests for name, value in manifest["inputs"].items()}
    plain = {name for name in inputs if name.startswith(MEASURED) and " " not in name and not name.endswith(_DAY)}
    plain -= {*_SHOWN_OTHERWISE}
    files = {name for name in inputs if name.endswith(_FILES)}
    return {name: str(inputs[name]) for name in sorted(plain | files, key=_place)}


def corpus_fact(triaged: Mapping[str, Any]) -> str:
    """Returns six hex digits over the files that were read and how they were read; labels damaged on purpose apart.

    Of files in S3 their ETags count, of local ones their bytes: the same pairs in two places look like two corpora.
    """
    read = {name: value for name, value in triaged["inputs"].items() if name.startswith("corpus.")}
    kept = {
        name: value for name, value in read.items() if not name.startswith(("corpus.noise", "corpus.rows_per_part"))
    }
    files = sorted(
        [name.rpartition("(")[2], value] for name, value in triaged["inputs"].items() if name.startswith("corpus file ")
    )
    return inputs_hash({"settings": kept, "files": files})[:6]


def unlike_settings(methods: Sequence[str], settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Returns {setting's name: each run's value} of those that differ; of unlike methods the objective is what is compared."""
    names = sorted({name for each in settings for name in each}, key=_place)
    if len(set(methods)) > 1:
        names = [name for name in names if not name.startswith(_METHOD)]
    values = {name: [each.get(name, "not set") for each in settings] for name in names}
    return {name: seen for name, seen in values.items() if len(set(seen)) > 1}


def short(value: str) -> str:
    """Returns a value that fits a line, its middle left out."""
    return value if len(value) <= _CHARACTERS else f"{value[: _CHARACTERS // 2]} ... {value[-_CHARACTERS // 2 :]}"


def _place(name: str) -> tuple[int, str]:
    return next((i for i, section in enumerate(MEASURED) if name.startswith(section)), len(MEASURED)), name
