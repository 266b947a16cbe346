"""The corpus judged, block by block: verdicts on disk, tallies to the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trace_ray.config import TriageConfig, judge_name
from trace_ray.config.gpus import JUDGING, judging_pool
from trace_ray.judges.backends import needs_model_to_judge
from trace_ray.judges.spend import spent
from trace_ray.judges.unreadable import FIRST, Unread
from trace_ray.runtime.progress import Meter
from trace_ray.storage.traffic import Traffic
from trace_ray.triage.account import ReadRows
from trace_ray.triage.block import merge_counts
from trace_ray.triage.budget import within_budget
from trace_ray.triage.first import draw_first, first_of
from trace_ray.triage.judge_worker import JudgeActor
from trace_ray.triage.labels import Label
from trace_ray.triage.running import each_block
from trace_ray.triage.workers import Task


def judge_corpus(
    task: Task, read: ReadRows, labels: Mapping[str, Label] | None, requests: Traffic | None = None
) -> dict[str, int]:
    """Judges the blocks that are not yet judged; returns what was counted over all.

    Args:
        labels: by pair_id; None = from_pairs.
        requests: gets those that were made of object stores.
    Raises: JudgeRejectedError as soon as canaries, what is judged first, or unreadable answers refuse the judge.
    """
    triage = task.config
    done = task.work.finished("judge")
    counts, requests = Counter[str](), requests or Traffic()

    def add(tally: Mapping[str, Any]) -> None:
        counts.update(tally["counts"])
        requests.add("judge", tally["traffic"])

    for tally in done.values():
        add(tally)
    blocks = [block for block in range(read.blocks) if block not in done]
    models = needs_model_to_judge(triage)

    def arguments() -> tuple[Any, ...]:
        gone = merge_counts([counts, *task.work.unfinished_use()])
        shared = within_budget(task.config, gone, JUDGING)
        return replace(task, config=shared, first=first), labels

    sample = first_sample(triage)
    first = first_of(task.work, labels, triage.audit_rows, sample)
    if blocks:
        draw_first(first, task.work, labels, read.blocks, triage.audit_rows, sample)
    running = each_block(JudgeActor, arguments, blocks, judging_pool(triage) if models else None)
    unread = _unread(triage, done.values())
    before: dict[str, int] | None = None
    with Meter("triage: judge", read.made) as meter:
        meter.skip(sum(tally["rows"] for tally in done.values()))
        for tally in running:
            add(tally)
            for name, count in unread.items():
                count.add(tally["unread"][name])
                count.refuse(least=FIRST)
            if before is None:  # by now what is judged first has been counted
                before = merge_counts(task.work.unfinished_use())
            meter.advance(tally["rows"], str(spent(triage, merge_counts([before, counts])) or ""))
    for count in unread.values():
        count.refuse()
    requests.own("judge")
    return merge_counts([counts, first.counts()])


def first_sample(triage: TriageConfig) -> int:
    """Returns how many pairs are judged before the corpus besides labelled ones."""
    if triage.first_judge is not None and triage.first_judge.backend == "distilled":
        return max(triage.audit_sample, triage.distil_pairs)
    return triage.audit_sample if needs_model_to_judge(triage) else 0


def _unread(triage: TriageConfig, tallies: Iterable[Mapping[str, Any]]) -> dict[str, Unread]:
    """Returns {judge: what it left without a verdict in the finished blocks}."""
    limit = ("triage.max_unreadable", triage.max_unreadable)
    named = {name: getattr(triage, name) for name in JUDGING if name != "first_judge"}
    judges = {name: judge for name, judge in named.items() if judge is not None}
    found = {name: Unread(f"triage.{name}", judge_name(judge), *limit) for name, judge in judges.items()}
    for tally in tallies:
        for name, count in found.items():
            count.add(tally["unread"][name])
    return found
