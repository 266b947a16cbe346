"""What is read of the harness' results, and what is said where it is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trace_ray.config import CapabilityConfig, ModelConfig
from trace_ray.config.sources import conf_folder
from trace_ray.errors import UserError
from trace_ray.evaluate.capability import harness_figures, run_harness
from trace_ray.synth.demo import MODELS


def test_metrics_with_and_without_standard_errors() -> None:
    results = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.5,
                "exact_match_stderr,strict-match": 0.1,
                "exact_match,none": 0,
                "exact_match_stderr,none": "N/A",
            }
        },
        "n-samples": {"gsm8k": {"original": 200, "effective": 4}},
    }
    assert harness_figures(results) == {
        "results": {
            "gsm8k": {
                "exact_match (strict-match)": {"value": 0.5, "stderr": 0.1},
                "exact_match": {"value": 0.0, "stderr": None},
            }
        },
        "documents": {"gsm8k": 4},
    }


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(UserError, match=r"trace-ray\[eval\]"):
        run_harness(ModelConfig(path="x"), CapabilityConfig(tasks=("gsm8k",)))


@pytest.fixture
def task_folder(tmp_path: Path) -> str:
    """conf/tasks/gsm8k_local.yaml as its first lines say: copied, with a file of three questions of GSM8K's shape."""
    answers = ["2 + 3 = <<2+3=5>>5 pears\n#### 5", "It costs $1,200\n#### 1,200", "She has none left\n#### 0"]
    rows = [{"question": f"How many are left of {i}?", "answer": answer} for i, answer in enumerate(answers)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = (conf_folder() / "tasks" / "gsm8k_local.yaml").read_text()
    (tmp_path / "gsm8k_local.yaml").write_text(task.replace("DATA.jsonl", str(data)))
    return str(tmp_path)


@pytest.mark.slow  # the extra eval; `make test-slow` installs it
def test_the_shipped_task_file_runs_on_a_local_file(task_folder: str) -> None:
    config = CapabilityConfig(tasks=("gsm8k_local",), task_folder=task_folder, limit=2)
    figures = run_harness(ModelConfig(path=str(MODELS / "policy")), config)
    assert figures["documents"] == {"gsm8k_local": 2}
    (values,) = figures["results"]["gsm8k_local"].values()
    assert values == {"value": 0.0, "stderr": 0.0}  # the tiny policy knows no numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "answer", "right"),
    [
        (0, "2 and 3 make 5 pears.\n#### 5", 1.0),
        (0, "2 + 3 = 5", 1.0),
        (0, "5 + 1 = 6", 0.0),
        (1, "So the price is $1200.", 1.0),
        (1, "#### 1,200", 1.0),
        (2, "no number", 0.0),
    ],
)
def test_the_last_number_of_an_answer_counts(task_folder: str, number: int, answer: str, right: float) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager, get_task_dict

    task: Any = get_task_dict(["gsm8k_local"], TaskManager(include_path=task_folder))["gsm8k_local"]
    doc = list(task.test_docs())[number]
    asked = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0, resps=[answer])
    task._instances = [asked]
    task.apply_filters()
    assert task.process_results(doc, [asked.filtered_resps["last_number"]])["exact_match"] == right
