"""Stage 1 on Ray: read and regroup the corpus, judge its blocks in a pool of actors, decide, account for every row.

Three steps, each block or file of which leaves a record when it is done, so that a resume redoes what was in flight only:
read (files -> runs of rows grouped by prompt), judge (blocks -> verdicts), decide (verdicts -> triaged/ and rejects/).
The verdicts stay, and ``run_decide`` decides a finished triage again by other settings without judging anything.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.shared_paths import refuse_unseen
from trace_ray.config import Config, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.corpus.read import Source
from trace_ray.corpus.sources import corpus_sources
from trace_ray.judges.backends import check_corrector
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import INPUTS, Run
from trace_ray.runtime.progress import warn
from trace_ray.storage.traffic import Traffic
from trace_ray.triage.again import finish_again, is_again
from trace_ray.triage.block import merge_counts
from trace_ray.triage.deciding import decide_corpus, decision_for
from trace_ray.triage.given import read_given, with_gold
from trace_ray.triage.guard import deaths
from trace_ray.triage.inputs import triage_inputs
from trace_ray.triage.judging import judge_corpus
from trace_ray.triage.labelled import audit_verdicts, refuse_audited, with_panel_audited, write_audit
from trace_ray.triage.publish import TriageOutcome, publish, unchecked_by_rules
from trace_ray.triage.reading import read_corpus
from trace_ray.triage.skills import with_panel
from trace_ray.triage.store import listed
from trace_ray.triage.stores import verdict_stores
from trace_ray.triage.work import Work
from trace_ray.triage.workers import Task


def run_triage(run: Run, config: Config) -> None:
    """Writes triaged/ and rejects/. Raises JudgeRejectedError where canaries or audit refuse the judge."""
    check_corrector(config.policy, config.triage)
    sources = corpus_sources(config.corpus, config.storage)
    triage = with_gold(config)
    given = read_given(
        config.triage, config.storage
    )  # before the run is begun: a file that is mended counts as another input
    inputs = triage_inputs(config, sources)
    started = time.monotonic()
    work = Work.of(run)
    if not begin(run, "triage", inputs):
        work.sweep()
        return
    if is_again(run):
        finish_again(run, config)
        return
    _tell_unchecked(config.policy, config.triage)
    ensure_ray(config.ray)
    refuse_unseen(_local_paths(run, sources))
    read = read_corpus(config.corpus, config.triage, sources, work)
    work = replace(work, files=read.files)
    stores = verdict_stores(config)
    task = Task(
        policy=config.policy,
        config=triage,
        work=work,
        blocks=read.blocks,
        stores=stores,
        stored={name: listed(store) for name, store in stores.items()},
        deaths=deaths(work.deaths),
        driver=uuid.uuid4().hex[:8],
    )
    requests = Traffic()
    for step, told in read.requests.items():
        requests.add(step, told)
    counts = judge_corpus(task, read, given.labels, requests)
    figures = audit_verdicts(work, config.triage, given.labels, read.blocks, read.made)
    if figures is not None:
        write_audit(work, figures)
        refuse_audited(figures, config.triage)
    decision = decision_for(config.triage, given.decision, figures)
    decision = with_panel(decision, work, config.triage, given.labels, read.blocks, read.made)
    if (figures := with_panel_audited(figures, work, config.triage, given.labels, decision, read)) is not None:
        write_audit(work, figures)
    decided = decide_corpus(task, read.made, decision, given.overruled, counts)
    decided.account.add_refused(read.refused)
    decided.requests.steps = requests.steps | decided.requests.steps
    used = merge_counts([counts, decided.used, *work.unfinished_use()])
    publish(run, config.policy, config.triage, TriageOutcome(read, used, decided, decision, figures), started)


def _local_paths(run: Run, sources: Sequence[Source]) -> dict[str, str]:
    """A file of the run and, where it is local too, of the corpus; a hub's dataset is where this node downloaded it."""
    places = {"--run": run.triaged.place / INPUTS, "corpus.paths": sources[0].place}
    return {setting: place.path for setting, place in places.items() if place.is_local}


def _tell_unchecked(policy: PolicyConfig, triage: TriageConfig) -> None:
    if unchecked := unchecked_by_rules(policy, triage):
        every = len(policy.clauses)
        checked = f"by rules, {every - len(unchecked)} of {every} clauses checked; nobody checks {', '.join(unchecked)}"
        warn(f"triage: {checked}: give them rules, or a judge that reads")
