"""A cascade of two judges that read, in two passes: the first one through all blocks, then the strong one where it is unsure.

Each has a pool of its own, and one pool is gone before the next begins, so that no engine waits for the other's, and each
has the card to itself. What is judged before the corpus goes the same way before it, one actor a judge: the look, whose
limits may stop the run, comes before either judge sees the corpus. Canaries are tried on each of the two alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from trace_ray.config.gpus import alone
from trace_ray.judges.backends import make_judge, names_clauses
from trace_ray.judges.cascade import FirstOfCascade, unsure
from trace_ray.judges.opinion import Opinion
from trace_ray.judges.usage import Usage
from trace_ray.model.engine import EngineFailedError
from trace_ray.runtime import environment
from trace_ray.storage import traffic
from trace_ray.triage.block import Bench
from trace_ray.triage.first import known_opinions
from trace_ray.triage.first_decided import Decided, write_decided
from trace_ray.triage.judge_worker import in_windows, looked
from trace_ray.triage.questions import columns_of, questions_of
from trace_ray.triage.running import Item
from trace_ray.triage.store import response_key
from trace_ray.triage.trial import check_canaries
from trace_ray.triage.work import window
from trace_ray.triage.workers import Task, die, unfinished, use_recorded


class FirstPassActor:
    """Ray Data actor: the first judge of a cascade, kept for all the blocks it gets. It leaves what it is sure of."""

    def __init__(self, task: Task) -> None:
        environment.prepare()
        self.task, self.config = task, task.config
        assert self.config.first_judge is not None, "see config.gpus.in_two_passes"
        self.first = alone(self.config.first_judge)
        by_clause = names_clauses(self.config)
        judge = make_judge(task.policy, self.first, where="triage.first_judge", by_clause=by_clause)
        self.judge = FirstOfCascade(judge, self.config.escalate_from, self.config.escalate_to)
        self.clauses_from = self.config.clauses_from if by_clause else None
        self.stores, self.usage = task.opened(), Usage({"": self.judge})
        self.known: Mapping[bytes, Opinion] = {}
        self.checked = False

    def read(self, item: Item) -> pa.Table | None:
        """As ``Task.to_judge``."""
        return self.task.to_judge(int(item["block"]))

    def work(self, item: Item, read: pa.Table | None) -> Item:
        """Judges one block, as ``JudgeActor`` does, or what is judged first."""
        block = int(item["block"])
        with use_recorded(self.task.work, self.usage):
            if not self.checked:
                check_canaries(self.task, {"triage.first_judge": self.judge.first}, block)
                self._look_first()
                self.checked = True
            if read is None:
                return looked(self.task.work, block, self.usage)
            return self._judge(block, read, last=item.get("last", True))

    def _judge(self, block: int, pairs: pa.Table, *, last: bool) -> Item:
        work = self.task.work
        decided = self._decided(pairs, f"block-{block:06d}", window(block, self.task.blocks))
        if not (last or all(opinion is None or opinion.final for opinion in decided.values())):
            return unfinished(work, block, self.usage)
        write_decided(work.decided_first(f"block-{block:06d}"), decided)
        told = {"block": block, "rows": pairs.num_rows, "counts": self.usage.take(), "traffic": traffic.take()}
        work.finish("first", block, told)
        return {"block": block, "tally": json.dumps(told)}

    def _look_first(self) -> None:
        """Judges what of the first look has no verdict and nothing decided yet."""
        first = self.task.first
        if first is None:
            return
        for number, pairs in enumerate(first.pieces()):
            if not first.verdicts(number).exists():
                for some, name, slots in in_windows(self.task, number, pairs):
                    place = self.task.work.decided_first(name)
                    if not place.exists():
                        write_decided(place, self._decided(some, name, slots))
        self.known = known_opinions(list(first.judged()), "judge")

    def _decided(self, pairs: pa.Table, place: str, slots: tuple[int, int]) -> Decided:
        store = self.stores.get("judge")
        known = {**(store.read(*slots) if store is not None else {}), **self.known}
        spans = self.task.guard(f"{place}/first", self.first.batch_rows, self.first).judge
        bench = Bench(self.judge, None, spans, self.clauses_from, known)
        try:
            return surely(pairs, bench, slots, (self.judge.low, self.judge.high))
        except EngineFailedError as error:
            die(error)


def surely(
    pairs: pa.Table, bench: Bench, slots: tuple[int, int], band: tuple[float, float]
) -> dict[bytes, Opinion | None]:
    """Returns what the first judge decides of pairs, for good, by ``store.response_key``; None where it died of a response.

    Args:
        bench: the first judge's, and what nobody needs to ask; of that nothing is returned.
        band: in which, ends included, the strong judge decides.
    """
    requests, responses, places = columns_of(questions_of(pairs).asked)
    opinions, _ = bench.opinions(requests, responses, places, slots)
    keys = map(response_key, requests, responses)
    asked = ((key, opinion) for key, opinion in zip(keys, opinions, strict=True) if key not in bench.known)
    return {key: opinion for key, opinion in asked if opinion is None or not unsure(opinion, *band)}
