"""What the stages would refuse before their first piece of work: files, packages and folders that settings name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence

import pyarrow.fs as pafs

from trace_ray.config import CapabilityConfig, Config, StorageConfig
from trace_ray.config.check import triage_judges
from trace_ray.errors import UserError
from trace_ray.evaluate.attacks import attacking_prompts, read_templates
from trace_ray.evaluate.labelled import Labels
from trace_ray.evaluate.prompts import own_prompts
from trace_ray.judges.backends import check_corrector
from trace_ray.realign.trackers import check_trackers
from trace_ray.storage.location import expand, locate
from trace_ray.triage.given import audit_decision, audit_labels, review_labels, with_gold


def unready(config: Config, stages: Sequence[str]) -> Iterator[UserError]:
    """Yields what one of the stages would stop for at once."""
    yield from _unreadable(config, stages)
    works: list[tuple[str, Callable[[], object]]] = [
        ("triage", lambda: check_corrector(config.policy, config.triage)),
        ("realign", lambda: check_trackers(config.realign.trackers)),
        ("evaluate", lambda: check_harness(config.evaluate.capability)),
        ("triage", lambda: check_store(config.triage.verdict_store, config.storage)),
    ]
    for stage, work in works:
        try:
            if stage in stages:
                work()
        except UserError as error:
            yield error


def _unreadable(config: Config, stages: Sequence[str]) -> Iterator[UserError]:
    """Reads each file as its stage does."""
    triage, evaluate, attacks = config.triage, config.evaluate, config.evaluate.attacks
    given, storage = (triage, config.storage), config.storage
    reads: list[tuple[str, str, Callable[[], object]]] = [
        ("triage.audit_labels", triage.audit_labels, lambda: audit_labels(*given)),
        ("triage.audit_file", triage.audit_file, lambda: audit_decision(*given)),
        ("triage.review_labels", triage.review_labels, lambda: review_labels(*given)),
        ("triage.gold_responses", triage.gold_responses, lambda: with_gold(config)),
        ("evaluate.audit_labels", evaluate.audit_labels, lambda: Labels.read(config)),
        ("evaluate.prompt_file", evaluate.prompt_file, lambda: own_prompts(evaluate, storage)),
        ("evaluate.attacks.prompts", attacks.prompts, lambda: attacking_prompts(attacks, storage)),
        ("evaluate.attacks.templates", attacks.templates, lambda: _templates(attacks.templates, storage)),
    ]
    for setting, name, read in reads:
        try:
            if name and setting.partition(".")[0] in stages:
                read()
        except UserError as error:
            yield error
        except OSError as error:
            yield UserError(setting, name, f"cannot be read: {' '.join(str(error).split())[:160]}")


def _templates(path: str, storage: StorageConfig) -> None:
    """Reads templates on their own: evaluate wants the file even where no prompts are attacked with it."""
    where = "evaluate.attacks.templates"
    read_templates(expand((path,), storage, where)[0])


def check_harness(config: CapabilityConfig) -> None:
    """Raises UserError where tasks are asked of a harness that is not installed here."""
    if config.tasks and importlib.util.find_spec("lm_eval") is None:
        remedy = "lm-evaluation-harness is not installed: pip install 'trace-ray[eval]', or leave the tasks out"
        raise UserError("evaluate.capability.tasks", list(config.tasks), remedy)


def check_store(store: str, storage: StorageConfig) -> None:
    """Raises UserError where the folder of shared verdicts is a file."""
    if not store:
        return
    place = locate(store, storage)
    if place.fs.get_file_info(place.path).type == pafs.FileType.File:
        raise UserError("triage.verdict_store", store, "a file is there: name a folder")


def without_weights(config: Config, stages: Sequence[str]) -> Iterator[UserError]:
    """Yields the models of the stages whose local folder holds no weights, which nobody looks for before they are loaded."""
    judges = triage_judges(config.triage) | {"evaluate.judge": config.evaluate.judge}
    models = {f"{name}.model": judge.model for name, judge in judges.items() if judge.backend == "vllm"}
    models = {setting: path for setting, path in models.items() if setting.partition(".")[0] in stages}
    if {"impact", "realign", "evaluate"} & set(stages):
        models["model.path"] = config.model.path
    for setting, path in models.items():
        if os.path.isdir(path) and not locate(path, config.storage).files(".safetensors"):
            yield UserError(setting, path, "no *.safetensors file there: download the model's weights too")
