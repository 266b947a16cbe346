"""Everything that would stop a run, found before it starts: each check returns its problems, none ends the others."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from trace_ray.cluster.capacity import NodeGroup, unmet
from trace_ray.cluster.nodes import this_machine
from trace_ray.config import Config, PlanConfig, RayConfig, StorageConfig
from trace_ray.config.check import check_needed
from trace_ray.config.gpus import There
from trace_ray.corpus.read import Source
from trace_ray.corpus.sources import corpus_sources
from trace_ray.errors import UserError
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import CONFLICTS
from trace_ray.plan.judges import reading_judges
from trace_ray.plan.reading import Reader
from trace_ray.plan.sample import Sample
from trace_ray.plan.stage_row import Resources, StageEstimate, total
from trace_ray.plan.workload import Workload
from trace_ray.runs.opening import hold_settings, run_folder
from trace_ray.runs.remembered import recall
from trace_ray.storage.location import locate

MEMORY_SHARE = 0.9
T = TypeVar("T")


def attempt(problems: list[UserError], work: Callable[[], T]) -> T | None:
    """Returns the work's result; a user's mistake goes to ``problems`` instead."""
    try:
        return work()
    except UserError as error:
        problems.append(error)
        return None


def find_sources(config: Config, stages: Sequence[str], problems: list[UserError]) -> Sequence[Source]:
    """Returns the corpus' files."""
    for stage in stages:
        attempt(problems, lambda stage=stage: check_needed(config, [stage]))  # type: ignore[misc]
    return (
        (attempt(problems, lambda: corpus_sources(config.corpus, config.storage)) or []) if config.corpus.paths else []
    )


def check_tokenizers(config: Config, problems: list[UserError]) -> bool:
    """Returns whether every tokenizer that is needed loads."""
    before = len(problems)
    if config.model.path:
        attempt(problems, lambda: load_chat_tokenizer(config.model))
    for name, judge in reading_judges(config).items():
        if judge.backend == "vllm":
            attempt(problems, lambda name=name, judge=judge: Reader.of(name, judge, config))  # type: ignore[misc]
    return len(problems) == before and bool(config.model.path)


def check_begun(uri: str, config: Config, stages: Sequence[str]) -> None:
    """Raises UserError where the run was begun with other settings, or its folder is none that a run may have."""
    run = run_folder(uri, config.storage)
    recall(run.place)
    hold_settings(run, config, stages)


def check_run_folder(uri: str, storage: StorageConfig) -> None:
    """Raises UserError where the run's folder cannot be written to."""
    probe = locate(uri, storage) / f".trace-ray-plan-{uuid.uuid4().hex}"
    try:
        probe.write_text("")
        probe.fs.delete_file(probe.path)
    except OSError as error:
        remedy = f"cannot be written to: {' '.join(str(error).split())[:160]}"
        raise UserError("--run", uri, remedy) from None


def cluster_size(ray: RayConfig, plan: PlanConfig, groups: Sequence[NodeGroup]) -> Resources:
    """Returns the cluster as ``plan`` gives it, else its worker groups at their largest, else this machine."""
    cpus = sum(group.cpus * group.most for group in groups) or ray.local_cpus or float(os.cpu_count() or 1)
    described = bool(groups or plan.manifest or plan.cpus or plan.gpus)
    gpus = sum(group.gpus * group.most for group in groups) if described else this_machine().gpus
    return Resources(cpus=plan.cpus or cpus, gpus=plan.gpus or gpus)


def card_bytes(plan: PlanConfig) -> float:
    """Returns the memory of one card, as ``plan`` gives it, else of this machine's; 0 where neither is known."""
    import torch

    if plan.gpu_gib or plan.manifest or plan.gpus or not torch.cuda.device_count():
        return plan.gpu_gib * 2**30
    return float(torch.cuda.get_device_properties(0).total_memory)


def gpus_of(have: Resources, groups: Sequence[NodeGroup]) -> There:
    """Returns what tells whether a node with such labels has a GPU, of the groups or else of the whole."""
    return lambda labels: any(g.gpus and g.admits(labels) for g in groups) if groups else have.gpus > 0


def check_resources(config: Config, stages: Sequence[str], have: Resources) -> Iterator[UserError]:
    """Yields what the stages ask for and the cluster does not have: such a task would wait for ever."""
    return unmet(config, stages, have.cpus, have.gpus, "give plan.cpus and plan.gpus of the real one")


def check_pairs(sample: Sample, load: Workload, config: Config) -> Iterator[UserError]:
    """Yields what the sampled pairs lack that a stage would stop for."""
    seen = f"{len(sample.pairs)} pairs sampled"
    train = {pair.category for pair in sample.pairs if not pair.test}
    if not load.trained["INVERT"] + load.trained["PUNISH"]:
        skipped = sorted(name for name in train if name in {category.value for category in CONFLICTS})
        if skipped:
            remedy = f"it trains on no {' and no '.join(skipped)}, and no other conflict was found: use another method"
            yield UserError("objective.method", config.objective.method, remedy)
        else:
            yield UserError("corpus", seen, "no sampled pair conflicts with the policy: check policy and corpus")
    elif train == {"PUNISH"} and not config.objective.corrects:
        remedy = "all of them PUNISH, so no pair holds a compliant response: add some, or use --method trace_oracle"
        yield UserError("corpus", seen, remedy)
    whole = len(sample.pairs) >= load.rows - load.refused
    meant = config.corpus.holdout or config.corpus.test_paths  # with neither, check_needed has said so
    if meant and whole and not load.prompts.number and not config.evaluate.prompt_file:
        remedy = "no prompt is held out: raise it, or name corpus.test_paths or evaluate.prompt_file"
        yield UserError("corpus.holdout", config.corpus.holdout, remedy)


def check_memory(stages: Sequence[StageEstimate], memory_gib: float) -> Iterator[UserError]:
    """Yields the stages that would not fit this machine's memory."""
    for stage in stages:
        if stage.memory_gib > MEMORY_SHARE * memory_gib:
            remedy = f"this machine has {memory_gib:.0f}: use fewer workers, smaller batches or a larger machine"
            yield UserError(stage.stage, f"{stage.memory_gib:.0f} GiB", remedy)


def check_cost(stages: Sequence[StageEstimate], most: float, rounds: int = 1) -> Iterator[UserError]:
    """Yields that a run of so many rounds of these stages would be ended by ``ray.max_cost``; 0 ends none."""
    price = rounds * total(list(stages), lambda stage: stage.price)
    if most and price > most:
        remedy = f"the estimate is {price:.2f}: raise it, or the run ends before it is done"
        yield UserError("ray.max_cost", f"{most:g}", remedy)


def machine_memory_gib() -> float:
    """Returns this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
