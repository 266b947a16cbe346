"""The account at the end of a triage: a lost, doubled or swapped row stops it before anything is published."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from trace_ray.config import JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.row_sums import row_sum
from trace_ray.pairs import REJECT_SCHEMA, TRIAGED_SCHEMA
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.account import ReadRows, Refused, written
from trace_ray.triage.calibrate import Calibration, Decision, decision_of
from trace_ray.triage.deciding import DecidedCorpus
from trace_ray.triage.publish import TriageOutcome, publish

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


def tallied(run: Run) -> DecidedCorpus:
    """What the workers that wrote the run's files told of them."""
    tables = (run.triaged.parts()[0].read_parquet(), run.rejects.parts()[0].read_parquet())
    decided = DecidedCorpus(Counter(triaged=tables[0].num_rows))
    decided.account.add(written(*tables), "part-0.parquet")
    return decided


READ_ROWS = ReadRows(len(READ), row_sum(pa.chunked_array([pa.array(READ, pa.int64())])), 1)


def outcome(read: ReadRows, decided: DecidedCorpus) -> TriageOutcome:
    return TriageOutcome(read, {}, decided, Decision(Calibration("platt"), 0.6, 0.05), None)


def test_rows_in_are_rows_out_and_rejects(tmp_path: Path) -> None:
    run = run_with(tmp_path, [0, 2, 3, 1 << 40], [1, (1 << 40) + 1])
    publish(run, PolicyConfig(), TriageConfig(), outcome(READ_ROWS, tallied(run)), 0.0)
    assert run.triaged.manifest()["counts"] == {"rows_in": 6, "rejects": 2, "triaged": 4}
    assert run.rejects.manifest()["counts"] == {"rows_in": 6, "rejects": 2, "broken_json": 2}


def test_the_decision_that_triage_took_is_published(tmp_path: Path) -> None:
    """An audit's file may have chosen it: the configuration alone does not say."""
    run = run_with(tmp_path, [0, 2, 3, 1 << 40], [1, (1 << 40) + 1])
    rules = TriageConfig(judge=JudgeConfig(backend="rules", model="left/over"))
    publish(run, PolicyConfig(), rules, outcome(READ_ROWS, tallied(run)), 0.0)
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
    told = tallied(run)
    with pytest.raises(RuntimeError, match="triage lost or doubled rows: 6 read"):
        publish(run, PolicyConfig(), TriageConfig(), outcome(READ_ROWS, told), 0.0)
    assert not run.triaged.done()
    assert not run.rejects.done()


def test_a_part_that_is_gone_is_noticed_and_one_that_nobody_wrote_goes(tmp_path: Path) -> None:
    """As an earlier version's task may have left it: its rows are in another part too."""
    good = [0, 2, 3, 1 << 40], [1, (1 << 40) + 1]
    run = run_with(tmp_path, *good)
    told, extra = tallied(run), run.rejects.place / "part-read-000000-000007.parquet"
    extra.write_parquet(run.rejects.parts()[0].read_parquet().slice(0, 1))
    publish(run, PolicyConfig(), TriageConfig(), outcome(READ_ROWS, told), 0.0)
    assert run.rejects.manifest()["parts"] == ["part-0.parquet"]
    lost = run_with(tmp_path / "lost", *good)
    told = tallied(lost)
    lost.triaged.place.fs.delete_file((lost.triaged.place / "part-0.parquet").path)
    with pytest.raises(RuntimeError, match=r"1 files are gone that were written, such as part-0\.parquet"):
        publish(lost, PolicyConfig(), TriageConfig(), outcome(READ_ROWS, told), 0.0)


def test_rows_that_could_not_be_read_are_in_the_account(tmp_path: Path) -> None:
    run = run_with(tmp_path, [0, 2, 3, 1 << 40], [1, (1 << 40) + 1])
    triaged, rejects = (artifact.parts()[0].read_parquet() for artifact in (run.triaged, run.rejects))
    decided = DecidedCorpus()
    decided.account.add(written(triaged, rejects.slice(0, 0)), "part-0.parquet")
    refused = Refused({"broken_json": 2}, row_sum(rejects["row"]), ("part-0.parquet",))
    decided.account.add_refused(refused)
    publish(run, PolicyConfig(), TriageConfig(), outcome(READ_ROWS, decided), 0.0)
    assert run.rejects.manifest()["counts"] == {"rows_in": 6, "rejects": 2, "broken_json": 2}
