"""What runs on the cluster for triage: plain classes and functions, one block a call. The stage hands them to Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.cluster.connection import in_service, this_node
from trace_ray.config import JudgeConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.read import SLOT_SCHEMA
from trace_ray.errors import UserError
from trace_ray.judges.backends import (
    corrector_kind,
    make_corrector,
    make_judge,
    make_triage_judge,
)
from trace_ray.judges.opinion import Corrector, Judge
from trace_ray.judges.unreadable import unread_tally
from trace_ray.judges.usage import Usage
from trace_ray.model.engine import EngineFailedError
from trace_ray.runs.artifacts import CANARIES
from trace_ray.runtime import environment, metrics
from trace_ray.storage.location import Location
from trace_ray.triage.block import SIDES, UNSETTLED, Bench, judge_block, prompt_texts
from trace_ray.triage.calibrate import Decision
from trace_ray.triage.canaries import canary_report, refuse_gullible_judge, refuse_mute_judge
from trace_ray.triage.decide import Correction, decide_block
from trace_ray.triage.guard import Guard, GuardedCorrector, GuardedJudge, Witness, deaths, unguarded
from trace_ray.triage.labels import Label, label_of, labelled_rows, review_line
from trace_ray.triage.store import VerdictStore
from trace_ray.triage.work import Work, window

CANARY_PAIRS = 16
Item = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every worker of one triage knows.

    Args:
        blocks: how many the corpus has.
        stores: {``judge`` | ``second``: where its verdicts are kept across runs}.
        deaths: how often judges had died before this process of the run began.
        driver: names that process, see ``guard.Witness``.
        again: decides what is published already: pairs come from triaged/, and none is refused any more.
    """

    policy: PolicyConfig
    config: TriageConfig
    work: Work
    blocks: int
    stores: Mapping[str, Location]
    deaths: int
    driver: str = ""
    again: bool = False

    def guard(self, place: str, size: int) -> Guard:
        """Returns the guard of one block's spans; ``place`` names its folder."""
        witness = Witness(self.driver, this_node, in_service, lambda: _refuse_many_deaths(self))
        return Guard(self.work.attempts / place, size, witness)

    def bench(self, name: str, judge: Judge, place: str) -> Bench:
        """Returns a judge with its store and its guard; ``place`` names the guard's folder."""
        config = self.config
        mortal = [c for c in (self.judge_config(name), config.first_judge) if c is not None and c.backend != "rules"]
        spans = self.guard(f"{place}/{name}", self.judge_config(name).batch_rows).judge if mortal else unguarded
        store = VerdictStore(self.stores[name]) if name in self.stores else None
        return Bench(judge, store, spans, config.clauses_from if config.clauses else None)

    def judge_config(self, name: str) -> JudgeConfig:
        second = self.config.second_judge
        return second if name == "second" and second is not None else self.config.judge


@contextmanager
def _use_recorded(work: Work, usage: Usage) -> Iterator[None]:
    """Records what a block has used that a mistake or a spent budget stops: its resume has so much less."""
    try:
        yield
    except UserError:
        work.record_use(usage.take())
        raise


class JudgeActor:
    """Ray Data actor: the judges, kept for all the blocks it gets.

    Args:
        labels: None = from_pairs, for the first ``audited`` blocks: which pairs they hold is drawn by the prompts' hash.
    """

    def __init__(self, task: Task, labels: Mapping[str, Label] | None, audited: int) -> None:
        environment.prepare()
        self.task, self.labels, self.audited = task, labels, audited
        config = task.config
        self.judge = make_triage_judge(task.policy, config)
        second = config.second_judge
        self.second = make_judge(task.policy, second, where="triage.second_judge") if second is not None else None
        self.usage = Usage({"": self.judge} | ({"second_": self.second} if self.second is not None else {}))
        self.checked = False

    def __call__(self, item: Item) -> Item:
        """Judges one block; where answers are not final, it is finished only if it is the ``last`` time that it is asked."""
        with _use_recorded(self.task.work, self.usage):
            return self._judge(int(item["block"]), last=item.get("last", True))

    def _judge(self, block: int, *, last: bool) -> Item:
        if not self.checked:
            check_canaries(self.task, self.judge, block)
            self.checked = True
        pairs = self.task.work.pairs(block)
        first = self.task.bench("judge", self.judge, f"block-{block:06d}")
        second = self.task.bench("second", self.second, f"block-{block:06d}") if self.second is not None else None
        try:
            judged, counts = judge_block(pairs, first, second, window(block, self.task.blocks))
        except EngineFailedError as error:
            _die(error)
        if counts[UNSETTLED] and not last:
            return _unfinished(self.task.work, block, self.usage)
        self.task.work.verdicts(block).write_parquet(judged)
        counts.update(self.usage.take())
        labels = {} if self.labels is None and block >= self.audited else self.labels
        kept = judged.filter(pc.is_null(judged["reason"]))  # a refused pair has no verdict, a repeated one an id twice
        rows = labelled_rows(kept, labels).select(["pair_id", "p_chosen", "p_rejected"])
        labelled = [(pair, label_of(pair, self.labels), a, b) for pair, a, b in _rows(rows)]
        unread = {name: unread_tally(said) for name, said in _said(kept, with_second=self.second is not None).items()}
        tally = {"rows": pairs.num_rows, "counts": dict(counts), "labelled": labelled, "unread": unread}
        self.task.work.finish("judge", block, tally)
        return {"block": block, "tally": json.dumps(tally)}


def _said(judged: pa.Table, *, with_second: bool) -> dict[str, list[tuple[float | None, str | None]]]:
    """Returns what each judge said of the responses of judged pairs: (probability, error)."""
    columns = {"judge": ("p", "error")} | ({"second_judge": ("second", "second_error")} if with_second else {})
    return {
        name: [one for side in SIDES for one in _rows(judged.select([f"{p}_{side}", f"{error}_{side}"]))]
        for name, (p, error) in columns.items()
    }


def check_canaries(task: Task, judge: Judge, block: int) -> None:
    """Runs the canaries before any row of the corpus is judged; rules, being exact, need none.

    Their seeds are pairs of the first block that is not empty: the same for every actor.

    Args:
        block: the actor's first: after a death it comes again, so its number finds the marks that were left.
    Raises: JudgeRejectedError below ``triage.min_canary_pass``, or where nothing it said could be read.
    """
    config, place = task.config, task.work.place / CANARIES
    if config.judge.backend == "rules":
        return
    if not place.exists():
        tables = (task.work.pairs(number) for number in range(task.blocks))
        pairs = next((table for table in tables if table.num_rows), SLOT_SCHEMA.empty_table()).slice(0, CANARY_PAIRS)
        requests = prompt_texts(pairs["prompt"])
        responses = [*pairs["rejected"].to_pylist(), *pairs["chosen"].to_pylist()]
        guard = task.guard(f"canaries-{block:06d}", config.judge.batch_rows)
        report = canary_report(GuardedJudge(judge, guard), [*requests, *requests], responses, config.threshold)
        place.write_text(json.dumps(report))
    report = json.loads(place.read_text())
    refuse_mute_judge(report, config.max_unreadable, config.judge.model)
    refuse_gullible_judge(report, config.min_canary_pass, config.judge.model)


class DecideActor:
    """Ray Data actor or task: names categories and, where asked, has violating pairs corrected."""

    def __init__(self, task: Task, decision: Decision, reviewed: Mapping[str, Label]) -> None:
        environment.prepare()
        self.task, self.decision, self.reviewed = task, decision, reviewed
        self.judge: Judge | None = None
        self.corrector: Corrector | None = None
        if task.config.correct:
            self.judge = make_triage_judge(task.policy, task.config)
            self.corrector = make_corrector(task.policy, task.config, self.judge)
        used = {"": self.judge, "corrector_": self.corrector if task.config.corrector_judge is not None else None}
        self.usage = Usage({prefix: one for prefix, one in used.items() if one is not None})

    def __call__(self, item: Item) -> Item:
        """Decides one block, as ``JudgeActor`` judges it."""
        with _use_recorded(self.task.work, self.usage):
            return self._decide(int(item["block"]), last=item.get("last", True))

    def _decide(self, block: int, *, last: bool) -> Item:
        work = self.task.work
        judged = work.verdicts(block).read_parquet()
        if self.task.again:
            pairs, judged = work.triaged_pairs(block), judged.filter(pc.is_null(judged["reason"]))
        else:
            pairs = work.pairs(block)
        try:
            slots = window(block, self.task.blocks)
            decided = decide_block(pairs, judged, self.decision, self.reviewed, self._correction(block), slots)
        except EngineFailedError as error:
            _die(error)
        if decided.counts[UNSETTLED] and not last:
            return _unfinished(work, block, self.usage)
        if decided.triaged.num_rows:
            (work.triaged / work.part(block)).write_parquet(decided.triaged)
        if decided.rejects.num_rows:
            (work.rejects / work.part(block)).write_parquet(decided.rejects)
        undecided = decided.triaged.filter(pc.equal(decided.triaged["category"], "ABSTAIN"))
        if undecided.num_rows:
            work.review(block).write_text("".join(map(review_line, undecided.to_pylist())))
        metrics.count_each("pairs_judged", "category", decided.triaged["category"].to_pylist())
        metrics.count_each("rejects", "reason", decided.rejects["reason"].to_pylist(), stage="triage")
        tally = {"rows": pairs.num_rows, "counts": dict(decided.counts), "used": self.usage.take()}
        work.finish("decide", block, tally)
        return {"block": block, "tally": json.dumps(tally)}

    def _correction(self, block: int) -> Correction | None:
        if self.judge is None or self.corrector is None:
            return None
        place = f"correct-{block:06d}"
        bench = replace(self.task.bench("judge", self.judge, place), clauses_from=None)
        config = self.task.config
        if corrector_kind(self.task.policy, config) in ("code", "gold"):
            return Correction(self.corrector, bench)
        rows = (config.corrector_judge or config.judge).batch_rows
        guard = self.task.guard(f"draft-{block:06d}", rows)
        return Correction(GuardedCorrector(self.corrector, guard), bench)


def _unfinished(work: Work, block: int, usage: Usage) -> Item:
    """Leaves a block to another try, and what it used to the budget."""
    work.record_use(usage.take())
    return {"block": block, "tally": json.dumps({"rows": 0, "left": block})}


def _refuse_many_deaths(task: Task) -> None:
    died = deaths(task.work.attempts) - task.deaths
    if died > task.config.max_judge_deaths:
        remedy = "the judge's processes keep dying; look at their logs and memory, then run the same command again"
        raise UserError("triage.max_judge_deaths", f"{died} deaths, limit {task.config.max_judge_deaths}", remedy)


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def _die(error: EngineFailedError) -> NoReturn:
    """Ends this process: Ray starts another with a fresh engine, and the guard's marks show where this one fell."""
    print(f"triage: {error}", flush=True)  # noqa: T201  the actor's log is the only place left
    os._exit(70)
