"""The judged corpus decided, block by block: categories, corrections, rows to review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trace_ray.config import TriageConfig
from trace_ray.config.gpus import correcting_pool
from trace_ray.judges.backends import needs_model_for_corrections
from trace_ray.judges.spend import spent
from trace_ray.runtime.progress import Meter
from trace_ray.storage.traffic import Traffic
from trace_ray.triage.account import Account
from trace_ray.triage.block import merge_counts
from trace_ray.triage.budget import within_budget
from trace_ray.triage.calibrate import Calibration, Decision, decision_of
from trace_ray.triage.labels import Label
from trace_ray.triage.running import each_block
from trace_ray.triage.work import Work
from trace_ray.triage.workers import DecideActor, Task


@dataclass
class DecidedCorpus:
    """What was counted over all blocks, what their corrections used, what was written, rows left to people, requests."""

    counts: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    account: Account = field(default_factory=Account)
    undecided: int = 0
    requests: Traffic = field(default_factory=Traffic)

    def add(self, work: Work, block: int, tally: Mapping[str, Any]) -> None:
        """Adds a block's tally, as ``workers.DecideActor`` leaves it."""
        self.counts.update(tally["counts"])
        self.used.update(tally["used"])
        self.account.add(tally["written"], work.part(block))
        self.undecided += tally["review"]
        self.requests.add("decide", tally["traffic"])


def decision_for(triage: TriageConfig, given: Decision | None, figures: Mapping[str, Any] | None) -> Decision:
    """Returns how probabilities become categories: as a given audit says, else as this one, else as the settings."""
    audited = decision_of(figures["decision"]) if figures else None
    return given or audited or Decision(Calibration(), triage.threshold, triage.abstain_band)


def decide_corpus(
    task: Task,
    rows: int,
    decision: Decision,
    overruled: Mapping[str, Label],
    used_to_judge: Mapping[str, int],
) -> DecidedCorpus:
    """Decides the blocks that are not yet decided.

    Args:
        rows: of all blocks, for the progress shown.
        overruled: labels by pair_id that decide their pairs.
    """
    triage = task.config
    done, total = task.work.finished("decide"), DecidedCorpus()
    for block, tally in done.items():
        total.add(task.work, block, tally)
    blocks = [block for block in range(task.blocks) if block not in done]

    def arguments() -> tuple[Any, ...]:
        gone = merge_counts([used_to_judge, total.used, *task.work.unfinished_use()])
        asked = ("judge", "first_judge", "corrector_judge") if triage.correct else ()
        return replace(task, config=within_budget(task.config, gone, asked)), decision, overruled

    models = needs_model_for_corrections(task.policy, triage)
    with Meter("triage: decide", rows) as meter:
        meter.skip(sum(tally["rows"] for tally in done.values()))
        for tally in each_block(DecideActor, arguments, blocks, correcting_pool(triage) if models else None):
            total.add(task.work, tally["block"], tally)
            asks = str(spent(triage, merge_counts([used_to_judge, total.used])) or "") if triage.correct else ""
            meter.advance(tally["rows"], asks)
    total.requests.own("decide")
    return total
