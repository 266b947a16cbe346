"""What runs on the cluster for triage: plain classes, one block a call. The stage hands them to Ray.

Here: what they share, and deciding. ``judge_worker`` judges.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.cluster.connection import in_service, this_node
from trace_ray.config import JudgeConfig, TriageConfig, settings
from trace_ray.config.gpus import in_one_actor, in_two_passes, strong_alone
from trace_ray.config.judges import WITHOUT_MODEL
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import UserError
from trace_ray.judges.backends import (
    corrector_kind,
    make_corrector,
    make_triage_judge,
    names_clauses,
)
from trace_ray.judges.opinion import Corrector, Judge
from trace_ray.judges.usage import Usage
from trace_ray.model.engine import EngineFailedError
from trace_ray.pairs import Category
from trace_ray.runs.artifacts import inputs_hash
from trace_ray.runtime import environment, metrics
from trace_ray.storage import traffic
from trace_ray.storage.location import Location
from trace_ray.triage.account import written
from trace_ray.triage.block import UNSETTLED, Bench
from trace_ray.triage.calibrate import Decision
from trace_ray.triage.decide import Correction, decide_block
from trace_ray.triage.first import First
from trace_ray.triage.guard import Guard, GuardedCorrector, Witness, deaths, unguarded
from trace_ray.triage.labels import Label, review_line
from trace_ray.triage.running import Item
from trace_ray.triage.store import VerdictStore
from trace_ray.triage.work import Work, window


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every worker of one triage knows.

    Args:
        blocks: how many the corpus has.
        stores: {``judge`` | ``second`` | ``third``: where its verdicts are kept across runs}.
        stored: {the same: names of the files that were there when this process of the run began}; without, a worker lists
            them: what others of this run write meanwhile is not looked for, so that counts depend on no race.
        deaths: how often judges had died before this process of the run began.
        driver: names that process, see ``guard.Witness``.
        first: what is judged before the corpus, if anything.
        again: decides what is published already: pairs come from triaged/, and none is refused any more.
        look: judges only what is judged first; behind_first: a cascade's first judge has decided what it is sure of, in a pass
            of its own (``first_pass``).
    """

    policy: PolicyConfig
    config: TriageConfig
    work: Work
    blocks: int
    stores: Mapping[str, Location]
    deaths: int
    driver: str = ""
    first: First | None = None
    again: bool = False
    look: bool = False
    behind_first: bool = False
    stored: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_judge(self, block: int) -> pa.Table | None:
        """Returns a block's pairs in SLOT_SCHEMA, None where only what is judged first is judged."""
        return None if self.look else self.work.pairs(block)

    def guard(self, place: str, size: int, *judges: JudgeConfig) -> Guard:
        """Returns the guard of one block's spans; ``place`` names its folder, ``judges`` are those that it guards."""
        witness = Witness(self.driver, this_node, in_service, lambda: _refuse_many_deaths(self))
        return Guard(self.work.attempts / place, size, witness, self.work.deaths, cuts=not _by_batches(judges))

    def opened(self) -> dict[str, VerdictStore]:
        """Returns the verdict stores, for all blocks of one worker."""
        return {name: VerdictStore(place, self.stored.get(name)) for name, place in self.stores.items()}

    def bench(self, name: str, judge: Judge, place: str, stores: Mapping[str, VerdictStore]) -> Bench:
        """Returns a judge with its store, of those ``opened``, and its guard; ``place`` names the guard's folder."""
        config = self.config
        mortal = [c for c in (self.judge_config(name), config.first_judge) if c is not None and c.backend != "rules"]
        guard = self.guard(f"{place}/{name}", self.judge_config(name).batch_rows, *mortal)
        spans = guard.judge if mortal else unguarded
        by_clause = name == "judge" and names_clauses(config)
        return Bench(judge, stores.get(name), spans, config.clauses_from if by_clause else None)

    def judge_config(self, name: str) -> JudgeConfig:
        """Returns the settings of ``judge``, ``second`` or ``third``."""
        other: JudgeConfig | None = getattr(self.config, f"{name}_judge", None)
        return other or self.config.judge


@contextmanager
def use_recorded(work: Work, usage: Usage) -> Iterator[None]:
    """Records what a block has used that a mistake or a spent budget stops: its resume has so much less."""
    try:
        yield
    except UserError:
        work.record_use(usage.take())
        raise


class DecideActor:
    """Ray Data actor or task: names categories and, where asked, has violating pairs corrected."""

    def __init__(self, task: Task, decision: Decision, reviewed: Mapping[str, Label]) -> None:
        environment.prepare()
        self.task, self.decision, self.reviewed = task, decision, reviewed
        self.stores = task.opened()
        self.judge: Judge | None = None
        self.corrector: Corrector | None = None
        if task.config.correct:
            other = corrector_kind(task.policy, task.config) in ("other", "sample")
            config = in_one_actor(strong_alone(task.config), *(["corrector_judge"] if other else []))
            if in_two_passes(task.config):  # what is kept there is what a cascade says
                self.stores.pop("judge", None)
            self.judge = make_triage_judge(task.policy, config)
            self.corrector = make_corrector(task.policy, config, self.judge)
        used = {"": self.judge, "corrector_": self.corrector if task.config.corrector_judge is not None else None}
        self.usage = Usage({prefix: asked for prefix, asked in used.items() if asked is not None})

    def read(self, item: Item) -> tuple[pa.Table, pa.Table]:
        """Returns a block's pairs, and what was judged of them."""
        work, block = self.task.work, int(item["block"])
        judged = work.verdicts(block).read_parquet()
        if self.task.again:
            return work.triaged_pairs(block), judged.filter(pc.is_null(judged["reason"]))
        return work.pairs(block), judged

    def work(self, item: Item, read: tuple[pa.Table, pa.Table]) -> Item:
        """Decides one block, as ``JudgeActor`` judges it."""
        with use_recorded(self.task.work, self.usage):
            return self._decide(int(item["block"]), *read, last=item.get("last", True))

    def _decide(self, block: int, pairs: pa.Table, judged: pa.Table, *, last: bool) -> Item:
        work = self.task.work
        try:
            slots = window(block, self.task.blocks)
            decided = decide_block(pairs, judged, self.decision, self.reviewed, self._correction(block), slots)
        except EngineFailedError as error:
            die(error)
        if decided.counts[UNSETTLED] and not last:
            return unfinished(work, block, self.usage)
        if decided.triaged.num_rows:
            (work.triaged / work.part(block)).write_parquet(decided.triaged)
        if decided.rejects.num_rows:
            (work.rejects / work.part(block)).write_parquet(decided.rejects)
        undecided = decided.triaged.filter(pc.equal(decided.triaged["category"], Category.ABSTAIN.value))
        if undecided.num_rows:
            work.review(block).write_text("".join(map(review_line, undecided.to_pylist())))
        metrics.count_each("pairs_judged", "category", decided.triaged["category"].to_pylist())
        metrics.count_each("rejects", "reason", decided.rejects["reason"].to_pylist(), stage="triage")
        tally = {
            "block": block,
            "rows": pairs.num_rows,
            "counts": dict(decided.counts),
            "used": self.usage.take(),
            "written": written(decided.triaged, decided.rejects),
            "review": undecided.num_rows,
            "traffic": traffic.take(),
        }
        work.finish("decide", block, tally)
        return {"block": block, "tally": json.dumps(tally)}

    def _correction(self, block: int) -> Correction | None:
        if self.judge is None or self.corrector is None:
            return None
        place = f"correct-{block:06d}"
        bench = replace(self.task.bench("judge", self.judge, place, self.stores), clauses_from=None)
        config = self.task.config
        kind = corrector_kind(self.task.policy, config)
        if kind in ("code", "gold"):
            return Correction(self.corrector, bench)
        writer = config.corrector_judge or config.judge
        by = settings(config.corrector_judge, "by") if config.corrector_judge is not None else {}
        made = inputs_hash({"kind": kind, "tokens": config.corrector_tokens, **by})  # other settings draft anew
        guard = self.task.guard(f"draft-{block:06d}-{made}", writer.batch_rows, writer)
        return Correction(GuardedCorrector(self.corrector, guard), bench, drawn=kind == "sample")


def _by_batches(judges: Iterable[JudgeConfig]) -> bool:
    """Returns whether those of the judges that read do so by batch files, all of them.

    Then no engine runs in this process that a text could kill, and a kill while a batch is waited for, up to a day, says
    nothing of its texts. A cut span asks for other batches: the one that runs would be paid for and read by nobody.
    """
    reading = [judge for judge in judges if judge.backend not in WITHOUT_MODEL]
    return bool(reading) and all(judge.backend == "openai" and judge.endpoint.batch_from > 0 for judge in reading)


def unfinished(work: Work, block: int, usage: Usage) -> Item:
    """Leaves a block to another try, and what it used to the budget."""
    work.record_use(usage.take())
    return {"block": block, "tally": json.dumps({"rows": 0, "left": block})}


def _refuse_many_deaths(task: Task) -> None:
    died = deaths(task.work.deaths) - task.deaths
    if died > task.config.max_judge_deaths:
        remedy = "the judge's processes keep dying; look at their logs and memory, then run the same command again"
        raise UserError("triage.max_judge_deaths", f"{died} deaths, limit {task.config.max_judge_deaths}", remedy)


def die(error: EngineFailedError) -> NoReturn:
    """Ends this process: Ray starts another with a fresh engine, and the guard's marks show where this one fell."""
    print(f"triage: {error}", flush=True)  # noqa: T201  the actor's log is the only place left
    os._exit(70)
