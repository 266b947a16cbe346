"""Stage 1 on Ray: read and regroup the corpus, judge its blocks in a pool of actors, decide, account for every row.

Three steps, each block or file of which leaves a record when it is done, so that a resume redoes what was in flight only:
read (files -> runs of rows grouped by prompt), judge (blocks -> verdicts), decide (verdicts -> triaged/ and rejects/).
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trace_ray.cluster.connection import ensure_ray, pooled
from trace_ray.config import Config, JudgeConfig, TriageConfig, judge_name, settings
from trace_ray.config.check import triage_judges
from trace_ray.config.policy import policy_identity
from trace_ray.corpus.blocks import SourceGroup, block_count, finished_groups, pairs_a_row, regroup
from trace_ray.corpus.files import count_rows
from trace_ray.corpus.read import Source
from trace_ray.corpus.sources import corpus_sources
from trace_ray.errors import UserError
from trace_ray.judges.backends import (
    check_corrector,
    needs_model_for_corrections,
    needs_model_to_judge,
)
from trace_ray.judges.prompt import PROMPT_VERSION
from trace_ray.judges.unreadable import FIRST, Unread
from trace_ray.pairs import Split
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import AUDIT_FILE, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runtime.progress import Meter
from trace_ray.storage.location import fingerprints
from trace_ray.triage.audit import Labelled, audit, refuse_bad_judge, refuse_unreached_rate
from trace_ray.triage.block import merge_counts
from trace_ray.triage.budget import within_budget
from trace_ray.triage.calibrate import Calibration, Decision, decision_of
from trace_ray.triage.given import Given, label_files, read_given, with_gold
from trace_ray.triage.guard import deaths
from trace_ray.triage.labels import Label
from trace_ray.triage.publish import ReadRows, TriageOutcome, publish
from trace_ray.triage.stores import verdict_stores
from trace_ray.triage.unread import refuse_unread
from trace_ray.triage.work import PLAN, Work
from trace_ray.triage.workers import DecideActor, Item, JudgeActor, Task

_BLOCKS_IN_TASK = 8

Arguments = Callable[[], tuple[Any, ...]]
"""What a worker is made with; asked for when work begins, for the budget that is left by then."""


def triage_inputs(config: Config, sources: list[Source]) -> dict[str, Any]:
    """Returns everything that a triaged row depends on."""
    # The number keeps files of one name apart, and rows are numbered by it.
    names = [f"corpus file {s.index + 1}: {s.place.name} ({s.split or 'train'})" for s in sources]
    files = dict(zip(names, fingerprints([s.place for s in sources]), strict=True))
    kept = settings(config.corpus, "corpus") | settings(config.triage, "triage")
    for moved in ("corpus.paths", "corpus.test_paths"):
        kept.pop(moved)
    for name in ("audit_labels", "audit_file", "review_labels", "gold_responses"):
        for place in label_files(config, name):
            files[f"triage.{name} content"] = place.fingerprint()
            kept.pop(f"triage.{name}", None)
    for name, judge in triage_judges(config.triage).items():
        if judge.backend == "vllm":
            files[f"{name}: model files"] = _identity(config, judge)
    return {"policy": policy_identity(config.policy), "judge's prompt": PROMPT_VERSION, **kept, **files}


def run_triage(run: Run, config: Config) -> None:
    """Writes triaged/ and rejects/. Raises JudgeRejectedError where canaries or audit refuse the judge."""
    check_corrector(config.policy, config.triage)
    sources = corpus_sources(config.corpus, config.storage)
    triage = with_gold(config)
    given = read_given(config)  # before the run is begun: a file that is mended counts as another input
    inputs = triage_inputs(config, sources)
    started = time.monotonic()
    if not begin(run, "triage", inputs):
        return
    ensure_ray(config.ray)
    work = Work.of(run)
    read = _read_corpus(config, sources, work)
    task = Task(
        policy=config.policy,
        config=triage,
        work=work,
        blocks=read.blocks,
        stores=verdict_stores(config),
        deaths=deaths(work.attempts),
        driver=uuid.uuid4().hex[:8],
    )
    judged = _judge(config, task, read, given.labels)
    figures = _audit(run, config, judged)
    audited = decision_of(figures["decision"]) if figures else None
    plain = Decision(Calibration(), config.triage.threshold, config.triage.abstain_band)
    decision = given.decision or audited or plain
    decided = _decide(config, task, read, replace(given, decision=decision), judged.counts)
    used = merge_counts([judged.counts, decided.used, *work.unfinished_use()])
    publish(run, config, TriageOutcome(read, used, decided.counts, decision, figures), started)


@dataclass(frozen=True)
class _Judged:
    labelled: list[Labelled]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Decided:
    counts: dict[str, int]
    used: dict[str, int]


def _groups(sources: list[Source], limit: int) -> list[SourceGroup]:
    """A limit counts over the training files in order, so one task reads them all; otherwise one task a file."""
    train = [source for source in sources if source.split != Split.TEST]
    rest = [(source,) for source in sources if source.split == Split.TEST]
    first = [tuple(train)] if limit else [(source,) for source in train]
    limits = [limit] * len(first) + [0] * len(rest)
    return [SourceGroup(i, group, most) for i, (group, most) in enumerate(zip([*first, *rest], limits, strict=True))]


def _read_corpus(config: Config, sources: list[Source], work: Work) -> ReadRows:
    import ray

    groups = _groups(sources, config.corpus.limit)
    place = work.place / PLAN
    if not place.exists():
        count = ray.remote(num_cpus=0.5)(_count_group)
        counted = sum(ray.get([count.remote(group) for group in groups]))
        place.write_text(json.dumps({"rows": counted, "pairs_a_row": pairs_a_row(sources, config.corpus)}))
    plan = json.loads(place.read_text())
    rows = int(plan["rows"])
    if rows == 0:
        raise UserError("corpus.paths", list(config.corpus.paths), "the corpus holds no row")
    blocks = block_count(math.ceil(rows * plan["pairs_a_row"]), config.corpus.rows_per_part)
    tallies = list(finished_groups(work.runs).items())
    todo = [group for group in groups if group.name not in dict(tallies)]
    with Meter("triage: read", rows) as meter:
        meter.skip(sum(tally["rows"] for _, tally in tallies))
        read = ray.remote(num_cpus=1)(regroup)
        for tally in _as_ready([read.remote(g, config.corpus, blocks, work.runs, work.rejects) for g in todo]):
            tallies.append(("", tally))
            meter.advance(tally["rows"])
    refuse_unread(groups, finished_groups(work.runs), config.corpus)
    total = merge_counts([tally for _, tally in tallies])
    if total["rows"] != rows:
        raise RuntimeError(f"triage lost rows: {rows} counted, {total['rows']} read")
    return ReadRows(rows, total["row_sum"], blocks, total["extra"])


def _count_group(group: SourceGroup) -> int:
    rows = sum(count_rows(source.place) for source in group.sources)
    return min(rows, group.limit) if group.limit else rows


def _as_ready(pending: list[Any]) -> Iterable[Any]:
    import ray

    while pending:
        ready, pending = ray.wait(pending)
        yield from ray.get(ready)


def _judge(config: Config, task: Task, read: ReadRows, labels: Mapping[str, Label] | None) -> _Judged:
    triage = config.triage
    done = task.work.finished("judge")
    audited = min(read.blocks, math.ceil(triage.audit_rows * read.blocks / read.made))
    tallies = list(done.values())
    labelled = [_labelled(one) for tally in tallies for one in tally["labelled"]]
    enough = min(triage.audit_rows, len(labels)) if labels else triage.audit_rows
    blocks = [block for block in range(read.blocks) if block not in done]

    def arguments() -> tuple[Any, ...]:
        spent = merge_counts([*(tally["counts"] for tally in tallies), *task.work.unfinished_use()])
        shared = within_budget(task.config, spent, ("judge", "first_judge", "second_judge"))
        return replace(task, config=shared), labels, audited

    models = needs_model_to_judge(triage)
    running = _pool(JudgeActor, arguments, blocks, triage.judge) if models else _tasks(JudgeActor, arguments, blocks)
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
                figures = _stored_audit(task.work, labelled, plain)
                refuse_bad_judge(figures, triage.min_auc, judge_name(triage.judge))
    for one in unread.values():
        one.refuse()
    return _Judged(labelled, merge_counts([tally["counts"] for tally in tallies]))


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


def _pool(worker: type, arguments: Arguments, blocks: list[int], pool: JudgeConfig) -> Iterable[dict[str, Any]]:
    """Yields each block's tally as it is done by an autoscaling pool of actors; a killed actor's blocks go to others.

    Blocks that a failing endpoint left without some answers come once more at the end, and are then done as they are.
    """
    left: list[int] = []
    for last, todo in ((False, blocks), (True, left)):
        for tally in _pooled(worker, arguments, [{"block": one, "last": last} for one in todo], pool):
            if "left" in tally:
                left.append(tally["left"])
            else:
                yield tally


def _pooled(worker: type, arguments: Arguments, items: list[Item], pool: JudgeConfig) -> Iterable[dict[str, Any]]:
    made = arguments() if items else ()
    for row in pooled(worker, made, items, pool, in_flight=2):
        yield json.loads(row["tally"])


def _audit(run: Run, config: Config, judged: _Judged) -> dict[str, Any] | None:
    if not judged.labelled:
        if config.triage.audit_labels:
            raise UserError(
                "triage.audit_labels", config.triage.audit_labels, "no pair of the corpus has a label there"
            )
        return None
    figures = _stored_audit(Work.of(run), judged.labelled, config.triage)
    refuse_bad_judge(figures, config.triage.min_auc, judge_name(config.triage.judge))
    refuse_unreached_rate(figures)
    return figures


def _stored_audit(work: Work, labelled: list[Labelled], triage: TriageConfig) -> dict[str, Any]:
    """Audits and writes the figures at once: should they stop the run, the report shows why."""
    figures = audit(labelled, triage)
    (work.triaged / AUDIT_FILE).write_text(json.dumps(figures, indent=1))
    return figures


def _decide(config: Config, task: Task, read: ReadRows, given: Given, used_to_judge: Mapping[str, int]) -> _Decided:
    triage = config.triage
    done = task.work.finished("decide")
    tallies = list(done.values())
    blocks = [block for block in range(read.blocks) if block not in done]

    def arguments() -> tuple[Any, ...]:
        decided = [tally.get("used", {}) for tally in tallies]
        spent = merge_counts([used_to_judge, *decided, *task.work.unfinished_use()])
        asked = ("judge", "first_judge", "corrector_judge") if triage.correct else ()
        return replace(task, config=within_budget(task.config, spent, asked)), given.decision, given.overruled

    models = needs_model_for_corrections(config.policy, triage)
    running = _pool(DecideActor, arguments, blocks, triage.judge) if models else _tasks(DecideActor, arguments, blocks)
    with Meter("triage: decide", read.made) as meter:
        meter.skip(sum(tally["rows"] for tally in tallies))
        for tally in running:
            tallies.append(tally)
            meter.advance(tally["rows"])
    counts, used = ([tally.get(name, {}) for tally in tallies] for name in ("counts", "used"))
    return _Decided(merge_counts(counts), merge_counts(used))


def _tasks(worker: type, arguments: Arguments, blocks: list[int]) -> Iterable[dict[str, Any]]:
    """Yields each block's tally; where no model is to be kept, plain tasks start sooner than a pool's actors.

    A bounded number is in flight, several blocks in each; Ray repeats those of a lost worker or node.
    """
    import ray

    if not blocks:
        return
    run = ray.remote(num_cpus=1)(_run_blocks)
    shared = ray.put(arguments())
    most = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    pending: list[Any] = []
    for start in range(0, len(blocks), _BLOCKS_IN_TASK):
        pending.append(run.remote(worker, shared, blocks[start : start + _BLOCKS_IN_TASK]))
        if len(pending) >= most:
            ready, pending = ray.wait(pending)
            yield from (tally for one in ray.get(ready) for tally in one)
    for tallies in _as_ready(pending):
        yield from tallies


def _run_blocks(worker: Callable[..., Any], arguments: tuple[Any, ...], blocks: list[int]) -> list[dict[str, Any]]:
    run = worker(*arguments)
    return [json.loads(run({"block": block})["tally"]) for block in blocks]


def _identity(config: Config, judge: JudgeConfig) -> str:
    return model_identity(judge.model, judge.revision, config.storage)
