"""A stage that was begun under other settings: anew where it has finished nothing or its mistake is mended, else refused."""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.support.pieces import LEFTOVERS, PIECES, leave
from trace_ray.config import StorageConfig
from trace_ray.errors import JudgeRejectedError, StaleRunError, UserError
from trace_ray.runs.anew import begin, may_begin_anew, note_mistake
from trace_ray.runs.artifacts import INPUTS, Run
from trace_ray.storage.location import locate

STAGES = tuple(PIECES)
WAS, NOW = {"some.setting": 1, "other": "same"}, {"some.setting": 2, "other": "same"}


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    if request.param == "local":
        return Run(locate(str(tmp_path / "run"), StorageConfig()))
    return Run(locate(f"s3://lake/{uuid.uuid4().hex}", request.getfixturevalue("s3")))


def files_of(run: Run, stage: str) -> set[str]:
    infos = run.place.fs.get_file_info(pafs.FileSelector(run.place.path, recursive=True))
    names = [i.path.removeprefix(f"{run.place.path}/") for i in infos if i.type == pafs.FileType.File]
    return {name for name in names if name.split("/")[0] in {folder.name for folder in run.made_by(stage)}}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_has_finished_nothing_begins_anew_with_nothing_left(run: Run, stage: str) -> None:
    assert begin(run, stage, WAS)
    leave(run, LEFTOVERS[stage])
    assert begin(run, stage, NOW)
    assert files_of(run, stage) == {f"{folder.name}/{INPUTS}" for folder in run.made_by(stage)}
    assert all(folder.changes(NOW) == {} for folder in run.made_by(stage))


@pytest.mark.parametrize(("stage", "piece"), [(stage, piece) for stage in STAGES for piece in PIECES[stage]])
def test_a_piece_of_work_is_never_mixed_with_that_of_other_settings(run: Run, stage: str, piece: str) -> None:
    begin(run, stage, WAS)
    leave(run, (*LEFTOVERS[stage], piece))
    before = files_of(run, stage)
    with pytest.raises(StaleRunError, match=r"some\.setting: 2: this run was begun with 1"):
        begin(run, stage, NOW)
    assert files_of(run, stage) == before
    assert begin(run, stage, WAS)  # goes on


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_stage_stays(run: Run, stage: str) -> None:
    begin(run, stage, WAS)
    for folder in run.made_by(stage):
        folder.publish(counts={}, seconds=0.0)
    assert not begin(run, stage, WAS)
    with pytest.raises(StaleRunError):
        begin(run, stage, NOW)
    note_mistake(run, stage, UserError("some.setting", 1, "use another"))
    with pytest.raises(StaleRunError):
        begin(run, stage, NOW)


@pytest.mark.parametrize("finished", [True, False])
def test_an_evaluation_goes_on_under_other_labels_and_limits_of_its_judge(run: Run, finished: bool) -> None:
    was = {"other": "same", "evaluate.audit_labels content": "a"}
    begin(run, "evaluate", was)
    leave(run, PIECES["evaluate"])
    if finished:
        run.evaluation.publish(counts={}, seconds=0.0)
    before = files_of(run, "evaluate") - {"evaluation/_DONE"}
    now = {"other": "same", "evaluate.audit_labels content": "b", "evaluate.min_auc": 0.6}
    assert begin(run, "evaluate", now)
    assert not run.evaluation.done()
    assert files_of(run, "evaluate") == before
    with pytest.raises(StaleRunError, match=r"evaluation: other: 'another'"):
        begin(run, "evaluate", now | {"evaluate.min_auc": 0.5, "other": "another"})


def test_one_of_two_folders_that_was_cleared_before_a_kill_is_no_new_stage(run: Run) -> None:
    begin(run, "impact", WAS)
    leave(run, LEFTOVERS["impact"])
    (run.scored.place / INPUTS).fs.delete_file((run.scored.place / INPUTS).path)
    assert begin(run, "impact", NOW)
    assert files_of(run, "impact") == {f"impact/{INPUTS}", f"scored/{INPUTS}"}


def stop(run: Run, stage: str, mistake: UserError) -> None:
    """Begins a stage, leaves a piece of work, and stops at a mistake."""
    begin(run, stage, WAS)
    leave(run, PIECES[stage])
    note_mistake(run, stage, mistake)


NOT_FINITE = UserError("realign.learning_rate", 1.0, "INVERT/loss is not finite at step 9; use a lower one")
REFUSED = JudgeRejectedError("triage audit", "AUC 0.5", "use a stronger triage.judge.model, or lower triage.min_auc")
NO_GAIN = UserError("impact", "9 conflicts, none of positive impact", "try objective.weights=uniform")


@pytest.mark.parametrize(
    ("stage", "mistake", "changed"),
    [
        ("realign", NOT_FINITE, "realign.learning_rate"),
        ("realign", UserError("model.path", "m", "no safetensors model there"), "model files"),
        ("triage", REFUSED, "triage.judge.model"),
        ("triage", REFUSED, "triage.judge.backend"),
        ("triage", REFUSED, "triage.judge: model files"),
        ("triage", REFUSED, "triage.min_auc"),
        ("impact", NO_GAIN, "objective.weights"),
        ("impact", NO_GAIN, "impact.gold_size"),
        ("evaluate", UserError("evaluate.prompt_file", "f", "line 3 is no prompt"), "evaluate.prompt_file content"),
    ],
)
def test_a_mistakes_remedy_can_be_followed_in_the_same_run(
    run: Run, stage: str, mistake: UserError, changed: str
) -> None:
    stop(run, stage, mistake)
    assert may_begin_anew(run, stage, [changed, "another.setting"])


@pytest.mark.parametrize(
    ("stage", "mistake", "changed"),
    [
        ("realign", NOT_FINITE, "realign.batch"),
        ("realign", NOT_FINITE, "model files"),
        ("realign", UserError("disk", "no space left", "the disk is full"), "realign.batch"),
        ("triage", REFUSED, "triage.threshold"),
        ("triage", UserError("triage.judge.endpoint.max_requests", 9, "spent"), "triage.judge.endpoint.base_url"),
        ("realign", StaleRunError("RUN/realign: realign.learning_rate", 1, "use the same"), "realign.learning_rate"),
    ],
)
def test_no_other_change_takes_what_a_stopped_stage_has_finished(
    run: Run, stage: str, mistake: UserError, changed: str
) -> None:
    """Verdicts for which an endpoint was paid least of all."""
    stop(run, stage, mistake)
    assert not may_begin_anew(run, stage, [changed])


def test_a_mistake_is_forgotten_once_the_stage_goes_on(run: Run) -> None:
    stop(run, "realign", NOT_FINITE)
    begin(run, "realign", WAS)
    assert not may_begin_anew(run, "realign", ["realign.learning_rate"])


def test_a_mistake_met_before_the_stage_went_on_says_nothing_of_its_work(run: Run) -> None:
    begin(run, "realign", WAS)
    leave(run, PIECES["realign"])
    note_mistake(run, "realign", UserError("model.path", "x", "once"))
    begin(run, "realign", WAS)
    note_mistake(run, "realign", UserError("disk", "full", "free some"))
    note_mistake(run, "realign", NOT_FINITE)  # of a process that did not get as far as the stage
    assert not may_begin_anew(run, "realign", ["realign.learning_rate"])
