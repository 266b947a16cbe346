"""`trace-ray audit` on a finished run: figures stored, and used by the next triage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_ray.config import Config, StorageConfig
from trace_ray.config.load import dump_config, load_config
from trace_ray.errors import UserError
from trace_ray.pairs import TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.calibrate import decision_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    opened = Run(locate(str(tmp_path / "run"), StorageConfig()))
    policy = tmp_path / "p.yaml"
    policy.write_text("policy: {name: p, text: x}\n")
    opened.place.make()
    opened.write_config(dump_config(load_config([policy])))
    opened.triaged.begin({})
    rows = [
        {"row": i, "pair_id": f"{i:04d}", "raw_violates_chosen": (i % 10) / 10, "raw_violates_rejected": 0.35}
        for i in range(200)
    ]
    (opened.triaged.place / "part-0.parquet").write_parquet(_table(rows))
    opened.triaged.publish(counts={}, seconds=0.0)
    return opened


def _table(rows: list[dict[str, object]]) -> object:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=TRIAGED_SCHEMA)


def audit(run: Run, labels: Path, *options: str) -> dict[str, object]:
    from typer.testing import CliRunner

    from trace_ray.cli.app import app

    result = CliRunner().invoke(app, ["audit", "--labels", str(labels), "--run", run.place.path, *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return dict(json.loads(result.stdout))


def test_figures_are_stored_with_the_run_and_make_a_decision(run: Run, tmp_path: Path) -> None:
    labels = [
        {"pair_id": f"{i:04d}", "violates_chosen": i % 10 >= 3, "violates_rejected": i % 2 == 0} for i in range(150)
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(label) + "\n" for label in labels))
    figures = audit(run, path, "--calibration", "platt")
    stored = json.loads((run.place / "audit.json").read_text())
    curve = stored.pop("roc")  # hundreds of numbers: kept, not printed
    assert stored == figures
    assert curve["violations_found"][-1] == 1
    assert (stored["pairs"], stored["checked_pairs"]) == (150, 75)
    assert sum(stored["confusion"].values()) == 75  # the half that the calibration was not fitted on
    assert decision_of(stored["decision"]).calibration.kind == "platt"
    assert load_config([tmp_path / "p.yaml"], [f"triage.audit_file={run.place.path}/audit.json"]) != Config()


def test_labels_of_other_pairs_are_a_users_error(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"pair_id": "else", "violates_chosen": true, "violates_rejected": false}\n')
    with pytest.raises(UserError, match="no pair_id"):
        audit(run, path)


def test_a_missing_file_of_labels_is_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        audit(run, tmp_path / "none.jsonl")
