"""The judge of the answers held against labels of them, on a real local Ray with vLLM and the shipped tiny model.

Triage goes by rules, the judges of the answers are another package's, the labels the synthetic world's oracle's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.brought_judges import HERE
from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import load_config
from trace_ray.config.sources import conf_folder
from trace_ray.errors import JudgeRejectedError
from trace_ray.pipeline import run_stages
from trace_ray.runs.anew import stopped_at
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.synth.demo import MODELS, write_corpus
from trace_ray.synth.oracle import violates
from trace_ray.triage.labelling.answers import of_answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PROMPTS = 40
TRAINED = {"method": "trace", "base model": "tiny", "tokens": 1}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose triage is done, by rules, and whose realigned model is the base."""
    made = Run(locate(str(tmp_path / "run"), StorageConfig()))
    write_corpus(made.place / "corpus")
    for name, number in (("train", 60), ("test", PROMPTS)):
        file = tmp_path / "run" / "corpus" / f"{name}.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:number]))
    run_stages(made, config_of(made, "Chance"), ["triage"])
    for artifact in (made.realign, made.model):
        artifact.begin({})
    shutil.copytree(MODELS / "policy", tmp_path / "run" / "model" / "merged")
    for artifact in (made.realign, made.model):
        artifact.publish(counts={"steps": 1}, seconds=0.0, **TRAINED)
    return made


def config_of(run: Run, judge: str, *more: str) -> Config:
    corpus = Path(run.place.path) / "corpus"
    given = [
        f"corpus.paths=[{corpus}/train.jsonl]",
        f"corpus.test_paths=[{corpus}/test.jsonl]",
        "triage.audit_labels=''",
    ]
    given += [
        f"evaluate.judge.backend={HERE}:{judge}",
        f"evaluate.judge.model={judge}",
        f"model.path={MODELS / 'policy'}",
    ]
    given += ["triage.judge.backend=rules", "evaluate.drift_pairs=0"]
    return load_config([conf_folder() / "examples" / "demo.yaml"], [*given, *more])


def evaluate(run: Run, *settings: str) -> dict[str, Any]:
    run_stages(run, config_of(run, *settings), ["evaluate"])
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


def test_a_judge_at_random_on_labelled_answers_stops_the_run_and_a_good_one_passes(run: Run, tmp_path: Path) -> None:
    lenient = "evaluate.min_canary_pass=0"
    assert "judge_audit" not in evaluate(run, "Chance", lenient)
    before, labels = answered(run), labels_of(run, tmp_path / "labels.jsonl", violates)
    with pytest.raises(
        JudgeRejectedError, match=r"^evaluate\.judge: AUC 0\.\d+: .* labelled answers: .*evaluate\.min_auc"
    ) as said:
        evaluate(run, "Chance", lenient, labels)
    assert not run.evaluation.done()
    assert str(said.value) in stopped_at(run)["evaluate"]
    metrics = evaluate(run, "Chance", lenient, labels, "evaluate.min_auc=0")
    assert answered(run) == before, "nothing was answered or judged again"
    assert metrics["judge_audit"]["of"] == "answers"
    assert "kappa" in Path(run.report.path).read_text(), "the page is of the evaluation as it is now"

    shutil.rmtree(tmp_path / "run" / "evaluation")
    metrics = evaluate(run, "Oracle", labels)
    assert metrics["judge_canaries"]["tried"] > 0
    judged = metrics["judge_audit"]
    assert (judged["auc"], judged["of"], judged["responses"]) == (1.0, "answers", 2 * len(of_answers(run, PROMPTS, 0)))
    assert metrics["tpa_corrected"]["base"]["all"] == pytest.approx(metrics["tpa"]["base"]["all"])
