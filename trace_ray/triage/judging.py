"""The corpus judged, block by block: verdicts on disk, tallies to the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trace_ray.config import TriageConfig, judge_name
from trace_ray.config.gpus import JUDGING, in_two_passes, judging_pools, strong_alone
from trace_ray.judges.backends import needs_model_to_judge
from trace_ray.judges.spend import spent
from trace_ray.judges.unreadable import FIRST, Unread
from trace_ray.runtime.progress import Meter
from trace_ray.storage.traffic import Traffic
from trace_ray.triage.account import ReadRows
from trace_ray.triage.block import merge_counts
from trace_ray.triage.budget import within_budget
from trace_ray.triage.first import draw_first, first_of
from trace_ray.triage.first_pass import FirstPassActor
from trace_ray.triage.judge_worker import JudgeActor, pass_first
from trace_ray.triage.labels import Label
from trace_ray.triage.running import Arguments, each_block
from trace_ray.triage.trial import canary_reports, refuse_tried
from trace_ray.triage.work import Work
from trace_ray.triage.workers import Task

_Labels = Mapping[str, Label] | None


@dataclass
class _Judged:
    """What was counted so far, and the requests made of object stores."""

    work: Work
    requests: Traffic
    counts: Counter[str] = field(default_factory=Counter)
    before: dict[str, int] | None = None

    def add(self, tally: Mapping[str, Any]) -> None:
        self.counts.update(tally.get("counts", {}))  # those of a look are on record
        self.requests.add("judge", tally["traffic"])

    def spent(self, config: TriageConfig) -> str:
        """What endpoints were asked, for the line of progress; first called once the first look has been counted."""
        if self.before is None:
            self.before = merge_counts(self.work.unfinished_use())
        return str(spent(config, merge_counts([self.before, self.counts])) or "")

    def shared(self, config: TriageConfig, *asked: str, actors: int) -> TriageConfig:
        """The settings with each actor's share of what the judges ``asked`` may still use of endpoints."""
        return within_budget(config, merge_counts([self.counts, *self.work.unfinished_use()]), asked, actors)


def judge_corpus(task: Task, read: ReadRows, labels: _Labels, requests: Traffic | None = None) -> dict[str, int]:
    """Judges the blocks that are not yet judged; returns what was counted over all.

    Two judges of a cascade that both read do so in turns, see ``first_pass``.

    Args:
        labels: by pair_id; None = from_pairs.
        requests: gets those that were made of object stores.
    Raises: JudgeRejectedError as soon as canaries, what is judged first, or unreadable answers refuse the judge.
    """
    triage = task.config
    done = task.work.finished("judge")
    so_far = _Judged(task.work, requests or Traffic())
    for tally in done.values():
        so_far.add(tally)
    blocks = [block for block in range(read.blocks) if block not in done]
    sample = first_sample(triage)
    first = first_of(task.work, labels, triage.audit_rows, sample)
    if blocks:
        draw_first(first, task.work, labels, read.blocks, triage.audit_rows, sample)
    task = replace(task, first=first)
    if in_two_passes(triage):
        _first_pass(task, read, labels, blocks, so_far)
        task = replace(task, config=strong_alone(triage), behind_first=True)
    pool = judging_pools(triage)["judge"] if needs_model_to_judge(triage) else None
    running = each_block(JudgeActor, _strong(task, labels, so_far, task.config.judge.max_actors), blocks, pool)
    unread = _unread(triage, done.values())
    with Meter("triage: judge", read.made) as meter:
        meter.skip(sum(tally["rows"] for tally in done.values()))
        for tally in running:
            so_far.add(tally)
            for name, count in unread.items():
                count.add(tally["unread"][name])
                count.refuse(least=FIRST)
            meter.advance(tally["rows"], so_far.spent(triage))
    for count in unread.values():
        count.refuse()
    so_far.requests.own("judge")
    return merge_counts([so_far.counts, first.counts()])


def _strong(task: Task, labels: _Labels, so_far: _Judged, actors: int) -> Arguments:
    """What each of so many ``JudgeActor`` is made with."""
    return lambda: (replace(task, config=so_far.shared(task.config, *JUDGING, actors=actors)), labels)


def _first_pass(task: Task, read: ReadRows, labels: _Labels, blocks: list[int], so_far: _Judged) -> None:
    """Has both judges look first, and the first judge go through the blocks that it has not been through."""
    done = task.work.finished("first")
    for tally in done.values():
        so_far.add(tally)
    if not blocks:
        return
    pool = judging_pools(task.config)["first_judge"]

    def arguments(of: Task, actors: int) -> Arguments:
        return lambda: (replace(of, config=so_far.shared(of.config, "first_judge", actors=actors)),)

    _look(task, labels, so_far, arguments(replace(task, look=True), 1))
    todo = [block for block in blocks if block not in done]
    with Meter("triage: first judge", read.made) as meter:
        meter.skip(sum(tally["rows"] for tally in done.values()))
        for tally in each_block(FirstPassActor, arguments(task, pool.max_actors), todo, pool):
            so_far.add(tally)
            meter.advance(tally["rows"], so_far.spent(task.config))


def _look(task: Task, labels: _Labels, so_far: _Judged, first: Arguments) -> None:
    """Canaries and what is judged first, by one actor of each judge; from disk where a resume finds all of it there."""
    assert task.first is not None
    judges = {f"triage.{name}": getattr(task.config, name) for name in JUDGING}
    reading = {name for name, judge in judges.items() if judge is not None and judge.backend != "rules"}
    reports = canary_reports(task.work)
    judged = all(task.first.verdicts(number).exists() for number in range(len(task.first.pieces())))
    if judged and reading <= reports.keys():
        refuse_tried(task.config, reports)
        pass_first(task, labels, list(task.first.judged()))
        return
    strong = _strong(replace(task, config=strong_alone(task.config), behind_first=True, look=True), labels, so_far, 1)
    for worker, arguments, name in ((FirstPassActor, first, "first_judge"), (JudgeActor, strong, "judge")):
        pool = replace(judging_pools(task.config)[name], actors=1, max_actors=1)
        for tally in each_block(worker, arguments, [0], pool):
            so_far.add(tally)


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
