"""Judging on the cluster: canaries and a first look before anything else, then a block a call."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.config import TriageConfig
from trace_ray.config.gpus import in_one_actor
from trace_ray.config.judges import WITHOUT_MODEL
from trace_ray.corpus.read import SLOTS
from trace_ray.judges.backends import make_judge, make_triage_judge
from trace_ray.judges.cascade import CascadeJudge
from trace_ray.judges.distilled import DistilledJudge
from trace_ray.judges.gates import refuse_gates
from trace_ray.judges.opinion import Judge, Opinion
from trace_ray.judges.unreadable import unread_tally
from trace_ray.judges.usage import Usage
from trace_ray.model.engine import EngineFailedError
from trace_ray.runs.artifacts import DISTILLED, GATES
from trace_ray.runtime import environment
from trace_ray.storage import traffic
from trace_ray.triage.block import (
    JUDGED_SCHEMA,
    NOT_ASKED,
    OTHERS,
    SIDES,
    UNSETTLED,
    Third,
    judge_block,
    merge_counts,
)
from trace_ray.triage.distil import teach_cascade
from trace_ray.triage.first import First, judged_responses, known_opinions
from trace_ray.triage.first_decided import read_decided
from trace_ray.triage.gates import sample_gates
from trace_ray.triage.labelled import all_gates, labelled_in_table, store_audit
from trace_ray.triage.labels import Label
from trace_ray.triage.running import Item
from trace_ray.triage.trial import check_canaries
from trace_ray.triage.work import Work, window, window_of
from trace_ray.triage.workers import Task, die, unfinished, use_recorded


class JudgeActor:
    """Ray Data actor: the judges, kept for all the blocks it gets.

    Args:
        labels: by pair_id; None = from_pairs.
    """

    def __init__(self, task: Task, labels: Mapping[str, Label] | None) -> None:
        environment.prepare()
        self.task, self.labels = task, labels
        self.known: dict[str, dict[bytes, Opinion]] = {}
        self.stores = task.opened()
        config = in_one_actor(task.config, "second_judge", "third_judge")
        self.judge = make_triage_judge(task.policy, config)
        named = {name: getattr(config, f"{name}_judge") for name in OTHERS}
        self.others: dict[str, Judge] = {
            name: make_judge(task.policy, judge, where=f"triage.{name}_judge")
            for name, judge in named.items()
            if judge is not None
        }
        self.usage = Usage({"": self.judge} | {f"{name}_": judge for name, judge in self.others.items()})
        self.checked = False

    def read(self, item: Item) -> pa.Table | None:
        """As ``Task.to_judge``."""
        return self.task.to_judge(int(item["block"]))

    def work(self, item: Item, read: pa.Table | None) -> Item:
        """Judges one block; where answers are not final, it is finished only if it is the ``last`` time that it is asked."""
        with use_recorded(self.task.work, self.usage):
            block = int(item["block"])
            if not self.checked:
                check_canaries(self.task, self._reading(), block)
                self._look_first(block)
                self.checked = True
            if read is None:
                return looked(self.task.work, block, self.usage)
            return self._judge(block, read, last=item.get("last", True))

    def _judge(self, block: int, pairs: pa.Table, *, last: bool) -> Item:
        judged, counts = self._judged(pairs, f"block-{block:06d}", window(block, self.task.blocks))
        if counts[UNSETTLED] and not last:
            return unfinished(self.task.work, block, self.usage)
        self.task.work.verdicts(block).write_parquet(judged)
        counts.update(self.usage.take())
        kept = judged.filter(pc.is_null(judged["reason"]))  # a refused pair has no verdict
        unread = {name: unread_tally(said) for name, said in _said(kept, self.others).items()}
        tally = {
            "block": block,
            "rows": pairs.num_rows,
            "counts": dict(counts),
            "unread": unread,
            "traffic": traffic.take(),
        }
        self.task.work.finish("judge", block, tally)
        return {"block": block, "tally": json.dumps(tally)}

    def _reading(self) -> dict[str, Judge]:
        """The judges that read, by their settings; the first one of a cascade alone, since it decides alone where sure."""
        config, found = self.task.config, {}
        if config.judge.backend != "rules":
            found["triage.judge"] = self.judge
        if (
            isinstance(self.judge, CascadeJudge)
            and config.first_judge
            and config.first_judge.backend not in WITHOUT_MODEL
        ):
            found["triage.first_judge"] = self.judge.first
        others = {f"triage.{name}_judge": (name, judge) for name, judge in self.others.items()}
        return found | {
            where: judge for where, (name, judge) in others.items() if self.task.judge_config(name).backend != "rules"
        }

    def _judged(self, pairs: pa.Table, place: str, slots: tuple[int, int]) -> tuple[pa.Table, Counter[str]]:
        made = {
            name: replace(self.task.bench(name, judge, place, self.stores), known=self.known.get(name, {}))
            for name, judge in {"judge": self.judge, **self.others}.items()
        }
        if self.task.behind_first:
            made["judge"] = replace(made["judge"], decided=read_decided(self.task.work.decided_first(place)))
        config = self.task.config
        tie_at = config.tie_at if config.third_asked == "ties" else None
        third = Third(made["third"], tie_at) if "third" in made else None
        try:
            return judge_block(pairs, made["judge"], made.get("second"), slots, third)
        except EngineFailedError as error:
            die(error)

    def _look_first(self, block: int) -> None:
        """Judges what of the first look nobody has judged, and sees that the judges keep the limits."""
        first = self.task.first
        if first is None:
            return
        pieces = first.pieces()
        for number in (*range(block % (len(pieces) or 1), len(pieces)), *range(block % (len(pieces) or 1))):
            if not first.verdicts(number).exists():
                self._judge_piece(first, number, pieces[number])
        judged = list(first.judged())
        self.known = {name: known_opinions(judged, name) for name in ("judge", *OTHERS)}
        pass_first(self.task, self.labels, judged)
        if isinstance(self.judge, CascadeJudge) and isinstance(self.judge.first, DistilledJudge):
            place = self.task.work.triaged / DISTILLED
            teach_cascade(self.judge, judged_responses(judged), self.task.config, place)

    def _judge_piece(self, first: First, number: int, pairs: pa.Table) -> None:
        done = [self._judged(some, place, slots) for some, place, slots in in_windows(self.task, number, pairs)]
        verdicts = pa.concat_tables([table for table, _ in done])
        order = pc.index_in(pairs["row"], verdicts["row"].combine_chunks())
        first.verdicts(number).write_parquet(verdicts.take(order))
        first.counted(number).write_text(json.dumps(merge_counts([counts for _, counts in done])))
        self.task.work.record_use(self.usage.take())


def looked(work: Work, block: int, usage: Usage) -> Item:
    """Tells of a worker that judged only what is judged first; what it used is on record."""
    work.record_use(usage.take())
    return {"block": block, "tally": json.dumps({"block": block, "rows": 0, "traffic": traffic.take()})}


def in_windows(task: Task, number: int, pairs: pa.Table) -> list[tuple[pa.Table, str, tuple[int, int]]]:
    """Returns a piece of the first look as (pairs, name of their place, window of slots) of what is judged in one go.

    All of it, or, where verdicts are kept across runs, block by block: the store is read by a block's slots. The place bears
    the sample's name: another sample, drawn on a resume, has other pieces of the same numbers.
    """
    assert task.first is not None, "a piece is of a first look"
    sample = task.first.place.name
    whole = [(pairs, (0, SLOTS))]
    if task.stores:
        owner = [window_of(slot, task.blocks) for slot in pairs["slot"].to_pylist()]
        whole = [(pairs.filter(pa.array([slots == mine for slots in owner])), mine) for mine in dict.fromkeys(owner)]
    return [(some, f"first-{sample}-{number:05d}-{slots[0]:05x}", slots) for some, slots in whole]


def pass_first(task: Task, labels: Mapping[str, Label] | None, judged: Sequence[tuple[pa.Table, pa.Table]]) -> None:
    """Sees, once, that what was judged first keeps the limits. Raises: JudgeRejectedError where it breaks them."""
    if task.first is not None and not task.first.passed.exists():
        refuse_first(task.work, task.config, labels, [verdicts for _, verdicts in judged])
        task.first.passed.write_text("{}")


def refuse_first(
    work: Work, triage: TriageConfig, labels: Mapping[str, Label] | None, verdicts: Sequence[pa.Table]
) -> None:
    """Raises JudgeRejectedError where what was judged first breaks a limit; figures and gates are on disk by then."""
    judged = pa.concat_tables([JUDGED_SCHEMA.empty_table(), *verdicts])
    plain = replace(triage, calibration="none", false_invert_rate=0.0)
    gates = sample_gates(triage, judged)
    if labelled_in_table(judged, labels):
        gates += all_gates(triage, store_audit(work, judged, labels, plain))
    (work.triaged / GATES).write_text(json.dumps([gate.as_json() for gate in gates], indent=1))
    refuse_gates(gates)


def _said(judged: pa.Table, others: Iterable[str]) -> dict[str, list[tuple[float | None, str | None]]]:
    """Returns what each judge said of the responses of judged pairs that it was asked of: (probability, error)."""
    columns = {"judge": ("p", "error")} | {f"{name}_judge": (name, f"{name}_error") for name in others}
    told = {
        name: [verdict for side in SIDES for verdict in _rows(judged.select([f"{p}_{side}", f"{error}_{side}"]))]
        for name, (p, error) in columns.items()
    }
    return {
        name: [verdict for verdict in said if name == "judge" or verdict != NOT_ASKED] for name, said in told.items()
    }


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
