"""The judged corpus decided, block by block: categories, corrections, rows to review."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trace_ray.config import Config, TriageConfig
from trace_ray.judges.backends import needs_model_for_corrections
from trace_ray.runtime.progress import Meter
from trace_ray.triage.block import merge_counts
from trace_ray.triage.budget import within_budget
from trace_ray.triage.calibrate import Calibration, Decision, decision_of
from trace_ray.triage.labels import Label
from trace_ray.triage.running import each_block
from trace_ray.triage.workers import DecideActor, Task


@dataclass(frozen=True)
class DecidedCorpus:
    """What was counted over all blocks, and what their corrections used."""

    counts: dict[str, int]
    used: dict[str, int]


def decision_for(triage: TriageConfig, given: Decision | None, figures: Mapping[str, Any] | None) -> Decision:
    """Returns how probabilities become categories: as a given audit says, else as this one, else as the settings."""
    audited = decision_of(figures["decision"]) if figures else None
    return given or audited or Decision(Calibration(), triage.threshold, triage.abstain_band)


def decide_corpus(
    config: Config,
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
    triage = config.triage
    done = task.work.finished("decide")
    tallies = list(done.values())
    blocks = [block for block in range(task.blocks) if block not in done]

    def arguments() -> tuple[Any, ...]:
        decided = [tally.get("used", {}) for tally in tallies]
        spent = merge_counts([used_to_judge, *decided, *task.work.unfinished_use()])
        asked = ("judge", "first_judge", "corrector_judge") if triage.correct else ()
        return replace(task, config=within_budget(task.config, spent, asked)), decision, overruled

    models = needs_model_for_corrections(config.policy, triage)
    with Meter("triage: decide", rows) as meter:
        meter.skip(sum(tally["rows"] for tally in tallies))
        for tally in each_block(DecideActor, arguments, blocks, triage.judge if models else None):
            tallies.append(tally)
            meter.advance(tally["rows"])
    counts, used = ([tally.get(name, {}) for tally in tallies] for name in ("counts", "used"))
    return DecidedCorpus(merge_counts(counts), merge_counts(used))
