"""The corpus judged, block by block: verdicts on disk, tallies to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trace_ray.config import Config, TriageConfig, judge_name
from trace_ray.judges.backends import needs_model_to_judge
from trace_ray.judges.unreadable import FIRST, Unread
from trace_ray.runtime.progress import Meter
from trace_ray.triage.audit import Labelled, refuse_bad_judge
from trace_ray.triage.block import merge_counts
from trace_ray.triage.budget import within_budget
from trace_ray.triage.labelled import audited_blocks, store_audit
from trace_ray.triage.labels import Label
from trace_ray.triage.publish import ReadRows
from trace_ray.triage.running import each_block
from trace_ray.triage.workers import JudgeActor, Task


def judge_corpus(config: Config, task: Task, read: ReadRows, labels: Mapping[str, Label] | None) -> dict[str, int]:
    """Judges the blocks that are not yet judged; returns what was counted over all.

    Args:
        labels: by pair_id; None = from_pairs.
    Raises: JudgeRejectedError as soon as canaries, audit or unreadable answers refuse the judge.
    """
    triage = config.triage
    done = task.work.finished("judge")
    audited = audited_blocks(triage.audit_rows, read.blocks, read.made)
    tallies = list(done.values())
    labelled = [_labelled(one) for tally in tallies for one in tally["labelled"]]
    enough = min(triage.audit_rows, len(labels)) if labels else triage.audit_rows
    blocks = [block for block in range(read.blocks) if block not in done]

    def arguments() -> tuple[Any, ...]:
        spent = merge_counts([*(tally["counts"] for tally in tallies), *task.work.unfinished_use()])
        shared = within_budget(task.config, spent, ("judge", "first_judge", "second_judge"))
        return replace(task, config=shared), labels, audited

    running = each_block(JudgeActor, arguments, blocks, triage.judge if needs_model_to_judge(triage) else None)
    unread = _unread(triage, tallies)
    with Meter("triage: judge", read.made) as meter:
        meter.skip(sum(tally["rows"] for tally in tallies))
        for tally in running:
            tallies.append(tally)
            for name, one in unread.items():
                one.add(tally["unread"][name])
                one.refuse(least=FIRST)
            labelled += [_labelled(one) for one in tally["labelled"]]
            meter.advance(tally["rows"])
            if labels != {} and len(labelled) >= enough and len(tallies) < read.blocks:
                plain = replace(triage, calibration="none", false_invert_rate=0.0)
                figures = store_audit(task.work, labelled, plain)
                refuse_bad_judge(figures, triage.min_auc, judge_name(triage.judge))
    for one in unread.values():
        one.refuse()
    return merge_counts([tally["counts"] for tally in tallies])


def _unread(triage: TriageConfig, tallies: Iterable[Mapping[str, Any]]) -> dict[str, Unread]:
    """Returns {judge: what it left without a verdict in the finished blocks}."""
    limit = ("triage.max_unreadable", triage.max_unreadable)
    judges = {"judge": triage.judge} | ({"second_judge": triage.second_judge} if triage.second_judge else {})
    found = {name: Unread(f"triage.{name}", judge_name(judge), *limit) for name, judge in judges.items()}
    for tally in tallies:
        for name, one in found.items():
            one.add(tally["unread"][name])
    return found


def _labelled(one: list[Any]) -> Labelled:
    return Labelled(one[0], Label(*one[1]), one[2], one[3])
