"""The account at the end of a triage: a lost, doubled or swapped row stops it before anything is published."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import Config, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.corpus.blocks import row_sum
from trace_ray.pairs import REJECT_SCHEMA, TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.calibrate import Calibration, Decision, decision_of
from trace_ray.triage.publish import ReadRows, TriageOutcome, publish

READ = [0, 1, 2, 3, 1 << 40, (1 << 40) + 1]


def run_with(folder: Path, triaged: list[int], rejects: list[int]) -> Run:
    run = Run(locate(str(folder), StorageConfig()))
    for artifact in (run.triaged, run.rejects):
        artifact.begin({})
    rows = pa.Table.from_pylist([{"row": row} for row in triaged], schema=TRIAGED_SCHEMA)
    (run.triaged.place / "part-0.parquet").write_parquet(rows)
    refused = [{"row": row, "stage": "triage", "reason": "broken_json"} for row in rejects]
    (run.rejects.place / "part-0.parquet").write_parquet(pa.Table.from_pylist(refused, schema=REJECT_SCHEMA))
    return run


def outcome() -> TriageOutcome:
    plan = ReadRows(len(READ), row_sum(pa.chunked_array([pa.array(READ, pa.int64())])), 1)
    return TriageOutcome(plan, {}, {"triaged": 4}, Decision(Calibration("platt"), 0.6, 0.05), None)


def test_rows_in_are_rows_out_and_rejects(tmp_path: Path) -> None:
    run = run_with(tmp_path, [0, 2, 3, 1 << 40], [1, (1 << 40) + 1])
    publish(run, Config(), outcome(), 0.0)
    assert run.triaged.manifest()["counts"] == {"rows_in": 6, "rejects": 2, "triaged": 4}
    assert run.rejects.manifest()["counts"] == {"rows_in": 6, "rejects": 2, "broken_json": 2}


def test_the_decision_that_triage_took_is_published(tmp_path: Path) -> None:
    """An audit's file may have chosen it: the configuration alone does not say."""
    run = run_with(tmp_path, [0, 2, 3], [1, (1 << 40) + 1])
    rules = TriageConfig(judge=JudgeConfig(backend="rules", model="left/over"))
    publish(run, Config(triage=rules), outcome(), 0.0)
    assert run.triaged.manifest()["judge"] == "rules"
    stored = decision_of(run.triaged.manifest()["decision"])
    assert (stored.calibration.kind, stored.threshold, stored.band) == ("platt", 0.6, 0.05)


@pytest.mark.parametrize(
    ("triaged", "rejects"),
    [
        ([0, 2, 3, 1 << 40], [1]),
        ([0, 2, 3, 3, 1 << 40], [1, (1 << 40) + 1]),
        ([0, 3, 3, 1 << 40], [1, (1 << 40) + 1]),
        ([1, 1, 3, 1 << 40], [1, (1 << 40) + 1]),  # the same count and the same plain sum
        ([2, 3, 1 << 40], [1, (1 << 40) + 1]),
        ([1 << 40, 1 << 40, 2, 3], [1, (1 << 40) + 1]),
    ],
    ids=["lost", "doubled", "one for another", "of equal sum", "row 0 lost", "a file's first row for another's"],
)
def test_a_lost_or_doubled_row_publishes_nothing(tmp_path: Path, triaged: list[int], rejects: list[int]) -> None:
    run = run_with(tmp_path, triaged, rejects)
    with pytest.raises(RuntimeError, match="triage lost or doubled rows: 6 read"):
        publish(run, Config(), outcome(), 0.0)
    assert not run.triaged.done()
    assert not run.rejects.done()
