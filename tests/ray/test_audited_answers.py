"""The judge of the answers held against labels of them, on a real local Ray with vLLM and the shipped tiny model.

The judges are another package's, the labels the synthetic world's oracle's; the realigned model is the base once more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.brought_judges import HERE
from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import JudgeRejectedError
from trace_ray.evaluate.stage import run_evaluate
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import MODELS
from trace_ray.synth.oracle import violates
from trace_ray.synth.world import generate
from trace_ray.triage.labelling.answers import of_answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PROMPTS = 40


def trained(folder: Path) -> Run:
    """A run of which triage and training are done, with held-out prompts of the synthetic world."""
    run = Run(locate(str(folder), StorageConfig()))
    rows = [
        {"pair_id": f"p{i}", "prompt": [{"role": "user", "content": row["prompt"]}], "split": "test"}
        | {"chosen": row["chosen"], "rejected": row["rejected"], "source": row["source"], "category": "INVERT"}
        for i, row in enumerate(generate().test[:PROMPTS])
    ]
    for artifact in (run.triaged, run.model):
        artifact.begin({})
    (run.triaged.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA))
    shutil.copytree(MODELS / "policy", folder / "model" / "merged")
    for artifact in (run.triaged, run.model):
        artifact.publish(counts={}, seconds=0.0)
    return run


def config_of(judge: str, *more: str) -> Config:
    given = [
        f"evaluate.judge.backend={HERE}:{judge}",
        f"evaluate.judge.model={judge}",
        f"model.path={MODELS / 'policy'}",
    ]
    given += ["evaluate.drift_pairs=0", f"evaluate.prompts={PROMPTS}", "triage.audit_labels=''"]
    return load_config([conf_folder() / "examples" / "demo.yaml"], [*given, *more])


def evaluate(run: Run, config: Config) -> dict[str, Any]:
    run_evaluate(run, config)
    return dict(json.loads((run.evaluation.place / "metrics.json").read_text()))


def answered(run: Run) -> dict[str, int]:
    folder = Path(run.evaluation.place.path)
    return {
        file.name: file.stat().st_mtime_ns for name in ("generated", "responses") for file in (folder / name).iterdir()
    }


def labels_of(run: Run, place: Path, truth: Callable[[str, str], bool]) -> str:
    said = [
        {"pair_id": pair.pair_id}
        | {f"violates_{side}": truth(pair.prompt, getattr(pair, side)) for side in ("chosen", "rejected")}
        for pair in of_answers(run, PROMPTS, 0)
    ]
    place.write_text("".join(json.dumps(row) + "\n" for row in said))
    return f"evaluate.audit_labels={place}"


def test_a_judge_at_random_on_labelled_answers_stops_the_run_and_a_good_one_passes(tmp_path: Path) -> None:
    run, lenient = trained(tmp_path / "run"), "evaluate.min_canary_pass=0"
    assert "judge_audit" not in evaluate(run, config_of("Chance", lenient))
    before, labels = answered(run), labels_of(run, tmp_path / "labels.jsonl", violates)
    with pytest.raises(
        JudgeRejectedError, match=r"^evaluate\.judge: AUC 0\.\d+: .* 80 labelled answers: .*evaluate\.min_auc"
    ):
        evaluate(run, config_of("Chance", lenient, labels))
    assert not run.evaluation.done()
    metrics = evaluate(run, config_of("Chance", lenient, labels, "evaluate.min_auc=0"))
    assert answered(run) == before, "nothing was answered or judged again"
    assert metrics["judge_audit"]["of"] == "answers"

    good = trained(tmp_path / "good")
    metrics = evaluate(good, config_of("Oracle", labels))
    assert metrics["judge_canaries"]["tried"] > 0
    assert (metrics["judge_audit"]["auc"], metrics["judge_audit"]["responses"]) == (1.0, 80)
    assert metrics["tpa_corrected"]["base"]["all"] == pytest.approx(metrics["tpa"]["base"]["all"])
