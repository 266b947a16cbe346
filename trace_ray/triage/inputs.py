"""What a triage is made from: two identities. Judging's says what is judged and by whom, deciding's what verdicts mean."""

from __future__ import annotations

from typing import Any

from trace_ray.config import Config, settings
from trace_ray.config.check import triage_judges
from trace_ray.config.deciding import is_deciding
from trace_ray.config.policy import policy_identity
from trace_ray.corpus.read import Source
from trace_ray.judges.prompt import PROMPT_VERSION
from trace_ray.runs.artifacts import inputs_hash
from trace_ray.runs.identity import model_identity
from trace_ray.storage.location import fingerprints
from trace_ray.triage.given import label_files


def triage_inputs(config: Config, sources: list[Source]) -> dict[str, Any]:
    """Returns everything that a triaged row depends on: ``judging_inputs`` and ``deciding_inputs``."""
    return judging_inputs(config, sources) | deciding_inputs(config)


def judging_inputs(config: Config, sources: list[Source]) -> dict[str, Any]:
    """Returns what a verdict depends on: rows, policy, judges, the frame of their prompt."""
    # The number keeps files of one name apart, and rows are numbered by it.
    names = [f"corpus file {s.index + 1}: {s.place.name} ({s.split or 'train'})" for s in sources]
    files = dict(zip(names, fingerprints([s.place for s in sources]), strict=True))
    kept = settings(config.corpus, "corpus") | _of_triage(config, deciding=False)
    for moved in ("corpus.paths", "corpus.test_paths"):
        kept.pop(moved)
    fixed = {"policy": policy_identity(config.policy), "judge's prompt": PROMPT_VERSION}
    return fixed | kept | files


def deciding_inputs(config: Config) -> dict[str, Any]:
    """Returns what a category depends on besides the verdicts: threshold, band, calibration, labels, limits, corrections."""
    kept = _of_triage(config, deciding=True)
    for name in ("audit_labels", "audit_file", "review_labels", "gold_responses"):
        if prints := fingerprints(label_files(config.triage, config.storage, name)):
            kept[f"triage.{name} content"] = prints[0] if len(prints) == 1 else inputs_hash({"files": prints})
            kept.pop(f"triage.{name}", None)
    return kept


def _of_triage(config: Config, *, deciding: bool) -> dict[str, Any]:
    """Its settings of one kind, and the model files of the judges that they name."""
    found = settings(config.triage, "triage")
    for name, judge in triage_judges(config.triage).items():
        files = f"{name}: model files"
        if judge.backend == "vllm" and is_deciding(files) == deciding:
            found[files] = model_identity(judge.model, judge.revision, config.storage)
    return {name: value for name, value in found.items() if is_deciding(name) == deciding}
