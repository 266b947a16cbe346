"""Everything that would stop a run, found before it starts: each check returns its problems, none ends the others."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from trace_ray.artifacts import STAGES
from trace_ray.capacity import Group
from trace_ray.config import Config
from trace_ray.config_load import check_needed
from trace_ray.corpus.read import Source
from trace_ray.corpus.sources import corpus_sources
from trace_ray.errors import UserError
from trace_ray.models import load_chat_tokenizer, load_tokenizer
from trace_ray.plan.estimate import Resources, StageEstimate
from trace_ray.storage import locate

MEMORY_SHARE = 0.9
T = TypeVar("T")


def attempt(problems: list[UserError], work: Callable[[], T]) -> T | None:
    """Returns the work's result; a user's mistake goes to ``problems`` instead."""
    try:
        return work()
    except UserError as error:
        problems.append(error)
        return None


def find_sources(config: Config, problems: list[UserError]) -> Sequence[Source]:
    """Returns the corpus' files."""
    for stage in STAGES:
        attempt(problems, lambda stage=stage: check_needed(config, [stage]))  # type: ignore[misc]
    return (
        (attempt(problems, lambda: corpus_sources(config.corpus, config.storage)) or []) if config.corpus.paths else []
    )


def check_tokenizers(config: Config, problems: list[UserError]) -> bool:
    """Returns whether every tokenizer that is needed loads."""
    before = len(problems)
    if config.model.path:
        attempt(problems, lambda: load_chat_tokenizer(config.model))
    for judge in (config.triage.judge, config.evaluate.judge):
        if judge.backend == "vllm" and judge.model and judge.model != config.model.path:
            attempt(problems, lambda judge=judge: load_tokenizer(judge.model, judge.revision))  # type: ignore[misc]
    return len(problems) == before and bool(config.model.path)


def check_run_folder(uri: str, config: Config) -> None:
    """Raises UserError where the run's folder cannot be written to."""
    probe = locate(uri, config.storage) / f".trace-ray-plan-{uuid.uuid4().hex}"
    try:
        probe.write_text("")
        probe.fs.delete_file(probe.path)
    except OSError as error:
        remedy = f"cannot be written to: {' '.join(str(error).split())[:160]}"
        raise UserError("--run", uri, remedy) from None


def cluster_size(config: Config, groups: Sequence[Group]) -> Resources:
    """Returns the cluster as ``plan`` gives it, else its worker groups at their largest, else this machine's cores."""
    cpus = sum(group.cpus * group.most for group in groups) or config.ray.local_cpus or float(os.cpu_count() or 1)
    gpus = sum(group.gpus * group.most for group in groups)
    return Resources(cpus=config.plan.cpus or cpus, gpus=config.plan.gpus or gpus)


def check_resources(config: Config, have: Resources) -> Iterator[UserError]:
    """Yields what the stages ask for and the cluster does not have: such a task would wait for ever."""
    triage, evaluate, realign, impact = config.triage.judge, config.evaluate, config.realign, config.impact
    asked = [
        ("triage.judge", triage.actors, triage.num_cpus, triage.num_gpus),
        ("impact", 1, impact.num_cpus, impact.num_gpus),
        ("realign", realign.min_workers or realign.workers, realign.num_cpus, 1.0 if realign.use_gpu else 0.0),
        ("evaluate", 1, evaluate.num_cpus, evaluate.num_gpus),
        ("evaluate.judge", evaluate.judge.actors, evaluate.judge.num_cpus, evaluate.judge.num_gpus),
    ]
    for name, workers, cpus, gpus in asked:
        for kind, need, there in (("CPU", workers * cpus, have.cpus), ("GPU", workers * gpus, have.gpus)):
            if need > there:
                remedy = f"the cluster has {there:g}: ask for less, or give plan.{kind.lower()}s of the real one"
                yield UserError(name, f"{need:g} {kind}", remedy)


def check_memory(stages: Sequence[StageEstimate], memory_gib: float) -> Iterator[UserError]:
    """Yields the stages that would not fit this machine's memory."""
    for stage in stages:
        if stage.memory_gib > MEMORY_SHARE * memory_gib:
            remedy = f"this machine has {memory_gib:.0f}: use fewer workers, smaller batches or a larger machine"
            yield UserError(stage.stage, f"{stage.memory_gib:.0f} GiB", remedy)


def machine_memory_gib() -> float:
    """Returns this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
