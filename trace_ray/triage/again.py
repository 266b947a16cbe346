"""A finished triage decided again by other settings, from the verdicts that it kept: no response is judged.

While that goes on the run is marked, and its triage unfinished: a killed one is finished by the same command again, or by
whatever command runs triage with the same settings.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from trace_ray.cluster.connection import ensure_ray
from trace_ray.config import Config, TriageConfig, settings
from trace_ray.config.deciding import DECIDING, is_deciding
from trace_ray.errors import UserError
from trace_ray.judges.backends import check_corrector
from trace_ray.judges.canaries import refuse_gullible_judge
from trace_ray.runs.anew import forget_decisions
from trace_ray.runs.artifacts import AGAIN, AUDIT_FILE, INPUTS, MANIFEST, VERDICTS, WORK, Inputs, Run, read_json
from trace_ray.triage.account import ReadRows
from trace_ray.triage.block import merge_counts
from trace_ray.triage.deciding import decide_corpus, decision_for
from trace_ray.triage.given import Given, read_given, with_gold
from trace_ray.triage.guard import deaths
from trace_ray.triage.inputs import deciding_inputs
from trace_ray.triage.labelled import audit_verdicts, refuse_audited, with_panel_audited, write_audit
from trace_ray.triage.publish import TriageOutcome, publish_again
from trace_ray.triage.skills import with_panel
from trace_ray.triage.store import listed
from trace_ray.triage.stores import verdict_stores
from trace_ray.triage.work import Work
from trace_ray.triage.workers import Task


def refuse_judgings(before: Config, now: Config) -> None:
    """Raises UserError for a setting that differs and is not deciding's: what it says would have to be judged."""
    was, seen = settings(before, ""), settings(now, "")
    changed = sorted(name for name in {*was, *seen} if was.get(name) != seen.get(name) and not is_deciding(name))
    for name in changed:
        remedy = f"deciding goes by triage.{{{','.join(DECIDING)}}} alone; for others begin another run with --run"
        raise UserError(name, seen.get(name, "absent"), remedy)


def is_again(run: Run) -> bool:
    """Returns whether a triage that was finished is being decided again."""
    return (run.triaged.place / WORK / AGAIN).exists() and not run.triaged.done()


def decide_again(run: Run, config: Config) -> bool:
    """Decides every row of the run by these settings.

    Returns: False where it was decided by the same settings before: nothing to do.
    Raises: UserError where the triage has not finished or kept no verdicts; JudgeRejectedError where the settings' limits
        refuse the judge: then the run stays as it was decided.
    """
    check_corrector(config.policy, config.triage)
    given = read_given(config.triage, config.storage)
    _refuse_unjudged(run)
    record = read_json(run.triaged.place / INPUTS)
    inputs = {name: value for name, value in record.items() if not is_deciding(name)} | deciding_inputs(config)
    changed = bool(run.triaged.changes(inputs))
    if run.triaged.done():
        Work.of(run).sweep()
        if not changed:
            return False
    ensure_ray(config.ray)
    figures = _figures(run, config.triage, given)
    _refuse(run, config.triage, figures)
    if changed:
        _begin(run, inputs)
    finish_again(run, config)
    return True


def _refuse_unjudged(run: Run) -> None:
    if not (run.triaged.done() or is_again(run)):
        remedy = "its triage has not finished: `trace-ray triage` goes on with it, under other settings of deciding too"
        raise UserError("decide", run.place.uri, remedy)
    if not (run.triaged.place / VERDICTS).files(".parquet"):
        remedy = "its triage kept no verdicts, as versions before `trace-ray decide` did: triage once more with another --run"
        raise UserError("decide", run.place.uri, remedy)


def _begin(run: Run, inputs: Inputs) -> None:
    """Makes the triage an unfinished one of these inputs; whatever a kill leaves of that can be gone on with."""
    (run.triaged.place / WORK / AGAIN).write_text("")
    forget_decisions(run)
    for artifact in (run.triaged, run.rejects):
        if artifact.done():
            artifact.reopen()
    for artifact in (run.triaged, run.rejects):
        artifact.adopt(inputs)


def finish_again(run: Run, config: Config) -> None:
    """Decides what is not yet decided again, and publishes."""
    started, work, given = time.monotonic(), Work.of(run), read_given(config.triage, config.storage)
    ensure_ray(config.ray)
    before = read_json(run.triaged.place / MANIFEST)
    figures = _figures(run, config.triage, given)
    _refuse(run, config.triage, figures)
    decision, read = decision_for(config.triage, given.decision, figures), _read(run)
    decision = with_panel(decision, work, config.triage, given.labels, read.blocks, read.made)
    if (figures := with_panel_audited(figures, work, config.triage, given.labels, decision, read)) is not None:
        write_audit(work, figures)
    elif (work.triaged / AUDIT_FILE).exists():
        work.triaged.fs.delete_file((work.triaged / AUDIT_FILE).path)
    stores = verdict_stores(config) if config.triage.correct else {}
    task = Task(
        policy=config.policy,
        config=with_gold(config),
        work=work,
        blocks=read.blocks,
        stores=stores,
        stored={name: listed(store) for name, store in stores.items()},
        deaths=deaths(work.deaths),
        driver=uuid.uuid4().hex[:8],
        again=True,
    )
    rows = before["counts"].get("triaged", 0)
    decided = decide_corpus(task, rows, decision, given.overruled, before["used"])
    used = merge_counts([before["used"], decided.used, *work.unfinished_use()])
    outcome = TriageOutcome(read, used, decided, decision, figures)
    publish_again(run, config.policy, config.triage, outcome, time.monotonic() - started)


def _read(run: Run) -> ReadRows:
    counts = read_json(run.triaged.place / MANIFEST)["counts"]
    blocks = len((run.triaged.place / VERDICTS).files(".parquet"))
    return ReadRows(counts["rows_in"], 0, blocks, counts.get("extra_pairs", 0))


def _figures(run: Run, triage: TriageConfig, given: Given) -> dict[str, Any] | None:
    read = _read(run)
    return audit_verdicts(Work.of(run), triage, given.labels, read.blocks, read.made)


def _refuse(run: Run, triage: TriageConfig, figures: dict[str, Any] | None) -> None:
    canaries = read_json(run.triaged.place / MANIFEST)["canaries"]
    if canaries:
        refuse_gullible_judge(canaries, triage.min_canary_pass, triage.judge.model)
    if figures is not None:
        refuse_audited(figures, triage)
