"""The exported logs: fields and types as the format documents them, figures as metrics.json has them.

Inspect itself reads them in an environment of its own, since what it wants of fsspec is older than ours:
`python tests/evaluate/inspect_reads.py LOGS RUN` with inspect-ai and pandas.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.report.made_run import MadeRun, config_of
from trace_ray.cli.app import app
from trace_ray.config import StorageConfig
from trace_ray.config.load import dump_config
from trace_ray.errors import UserError
from trace_ray.evaluate.inspect_log import export_inspect_logs
from trace_ray.storage.location import locate

NUMBER = (int, float)
FIELDS: dict[str, Any] = {
    "version": int,
    "status": str,
    "eval": {
        "run_id": str,
        "created": str,
        "task": str,
        "task_id": str,
        "task_version": int,
        "task_args": dict,
        "dataset": {"name": str, "samples": int, "sample_ids": list, "shuffled": bool},
        "model": str,
        "model_args": dict,
        "config": dict,
        "packages": dict,
        "metadata": dict,
    },
    "plan": {"name": str, "steps": list, "config": dict},
    "results": {"total_samples": int, "completed_samples": int, "scores": list},
    "stats": {"started_at": str, "completed_at": str, "model_usage": dict},
    "samples": list,
}
SAMPLE: dict[str, Any] = {
    "id": str,
    "epoch": int,
    "input": str,
    "target": str,
    "messages": list,
    "output": {"model": str, "choices": list},
    "scores": {"complies": {"value": str, "answer": str, "explanation": str, "metadata": dict}},
    "metadata": dict,
    "store": dict,
    "events": list,
    "model_usage": dict,
    "attachments": dict,
}
"""What the format's JSON schema (`inspect log schema`, 0.3.285) calls these objects' properties, with their types."""
WORDS = {"C", "I"}
"""Of a score that is right or wrong, as Inspect's own accuracy takes it."""


def assert_has(found: Any, fields: dict[str, Any]) -> None:
    assert set(found) == set(fields)
    for name, kind in fields.items():
        if isinstance(kind, dict):
            assert_has(found[name], kind)
        else:
            assert isinstance(found[name], kind), name


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    made = MadeRun(tmp_path / "run", answer_error="unreadable: mass 0.1")
    made.everything()
    facts = json.loads((made.run.evaluation.place / "manifest.json").read_text()) | {"judge": "rules"}
    (made.run.evaluation.place / "manifest.json").write_text(json.dumps(facts))
    made.run.write_config(dump_config(config_of("corpus.paths=[x]")))
    return made


def exported(made: MadeRun, folder: Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["export-answers", str(folder), "--run", str(made.folder)])
    assert done.exit_code == 0, done.output
    files = sorted(folder.iterdir())
    assert done.stdout.split("\n")[:2] == [str(file) for file in files]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", file.name) for file in files)  # else Inspect passes over it
    return {file.stem.rpartition("_")[2]: json.loads(file.read_text()) for file in files}


def test_the_logs_hold_the_answers_their_verdicts_and_the_figures(made: MadeRun, tmp_path: Path) -> None:
    logs = exported(made, tmp_path / "logs")
    metrics = json.loads((made.run.evaluation.place / "metrics.json").read_text())
    stored = [
        row for part in (made.run.evaluation.place / "responses").files() for row in part.read_parquet().to_pylist()
    ]
    assert set(logs) == {"base", "realigned"}
    for model, log in logs.items():
        assert_has(log, FIELDS)
        mine = {row["pair_id"]: row for row in stored if row["model"] == model}
        assert log["eval"]["dataset"]["sample_ids"] == list(mine)
        log_model = log["eval"]["model"]
        assert (log["version"], log["status"]) == (2, "success")
        assert log["results"]["total_samples"] == log["results"]["completed_samples"] == len(mine)
        for moment in (log["eval"]["created"], log["stats"]["started_at"], log["stats"]["completed_at"]):
            assert datetime.fromisoformat(moment).tzinfo is not None
        (score,) = log["results"]["scores"]
        assert_has(score, {"name": str, "scorer": str, "params": dict, "metrics": dict})
        for name, metric in score["metrics"].items():
            assert_has(metric, {"name": str, "value": NUMBER, "params": dict})
            assert (metric["name"], 0 <= metric["value"] <= 1) == (name, True)
        said = {name: metric["value"] for name, metric in score["metrics"].items()}
        wanted = {f"accuracy_{g}": tpa / 100 for g, tpa in metrics["tpa"][model].items() if g != "all"}
        assert said == pytest.approx(wanted | {"accuracy": metrics["tpa"][model]["all"] / 100})
        for sample in log["samples"]:
            assert_has(sample, SAMPLE)
            row = mine.pop(sample["id"])
            asked, answered = sample["messages"]
            assert asked == {"role": "user", "content": row["prompt"], "source": "input"}
            assert answered == {
                "role": "assistant",
                "content": row["response"],
                "source": "generate",
                "model": log_model,
            }
            (choice,) = sample["output"]["choices"]
            assert choice == {"message": answered, "stop_reason": "unknown"}
            assert (sample["epoch"], sample["target"], sample["input"]) == (1, "", row["prompt"])
            assert sample["scores"]["complies"]["value"] in WORDS
            assert sample["scores"]["complies"]["value"] == ("C" if row["compliant"] else "I")
            assert row["compliant"] or sample["scores"]["complies"]["explanation"] == "unreadable: mass 0.1"
        assert not mine
    assert logs["base"]["eval"]["run_id"] != logs["realigned"]["eval"]["run_id"]


def test_a_used_folder_or_a_run_without_answers_is_refused(made: MadeRun, tmp_path: Path) -> None:
    exported(made, tmp_path / "logs")
    with pytest.raises(UserError, match="holds files already"):
        export_inspect_logs(made.run, config_of(), locate(str(tmp_path / "logs"), StorageConfig()))
    (made.run.evaluation.place / "_DONE").fs.delete_file((made.run.evaluation.place / "_DONE").path)
    with pytest.raises(UserError, match="not finished"):
        export_inspect_logs(made.run, config_of(), locate(str(tmp_path / "other"), StorageConfig()))
