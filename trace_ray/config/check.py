"""What a configuration must fulfil before anything starts: each mistake is one line naming setting, value, remedy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trace_ray.config import COLUMN_NAMES, Config, JudgeConfig, ObjectiveConfig, RealignConfig, TriageConfig
from trace_ray.config.bounds import bound_problems
from trace_ray.config.engine import check_trust, refuse_code
from trace_ray.config.fields import AUTO, leaves
from trace_ray.config.gpu_check import gpu_problems
from trace_ray.config.gpus import JUDGES
from trace_ray.config.judge_check import distilled_problems, judge_problems, panel_problems, tells_clauses
from trace_ray.config.judges import WITHOUT_MODEL
from trace_ray.config.plugins import is_plugin
from trace_ray.config.policy import PolicyConfig, check_policy
from trace_ray.config.round_check import round_problems
from trace_ray.config.sampler import sampler_problems
from trace_ray.config.selection import select_problems, with_selection
from trace_ray.config.selectors import selector_problems
from trace_ray.config.templates import template_dates
from trace_ray.config.terms import named_terms, target_problems, term_problems, unknown_losses
from trace_ray.config.zero import deepspeed_problems
from trace_ray.errors import UserError, nearest
from trace_ray.pairs import TRAINED

TRACKERS = ("tensorboard", "mlflow", "wandb")


def check_config(config: Config) -> None:
    """Raises UserError on the first setting that is out of range or at odds with another."""
    for problem in _problems(config):
        raise problem


def config_problems(config: Config) -> list[UserError]:
    """Returns the problem of every setting that is out of range or at odds with another, as ``check_config`` finds them.

    Returns: one a setting; ``check_config`` raises the first.
    """
    found: dict[str, UserError] = {}
    for problem in _problems(config):
        found.setdefault(problem.where, problem)
    return list(found.values())


def _problems(config: Config) -> Iterator[UserError]:
    misspelt = [*_not_a_choice(config), *unknown_losses(config.objective)]
    yield from misspelt
    yield from bound_problems(config)
    for name, value, about in leaves(config):
        if about.get("labels"):
            yield from selector_problems(name, value)
    judges = triage_judges(config.triage) | {"evaluate.judge": config.evaluate.judge}
    judges |= {f"evaluate.panel[{i}]": judge for i, judge in enumerate(config.evaluate.panel)}
    if not misspelt:  # such a word would be at odds with much that is right
        yield from _at_odds(config)
    for name, judge in judges.items():
        yield from judge_problems(name, judge, config.policy)
        if judge.backend == "distilled":
            yield from distilled_problems(name, config.triage)
        yield from _check_engine(f"{name}.engine", judge.engine)
        yield from _raised(lambda n=name, j=judge: check_trust(n, j.model, j.trust_remote_code))  # type: ignore[misc]
    yield from _check_template_dates(config)
    yield from _raised(lambda: check_trust("model", config.model.path, config.model.trust_remote_code))
    yield from _check_engine("evaluate.engine", config.evaluate.engine)
    yield from gpu_problems(config)
    needs_rules = any(judge.backend == "rules" for judge in judges.values())
    yield from _raised(lambda: check_policy(config.policy, needs_rules=needs_rules))
    if not misspelt:
        yield from _check_audit(config.triage, config.policy)
        yield from panel_problems(config.triage)


def _raised(check: Callable[[], None]) -> Iterator[UserError]:
    """Yields what a check raises."""
    try:
        check()
    except UserError as error:
        yield error


def _not_a_choice(config: Config) -> Iterator[UserError]:
    for name, value, about in leaves(config):
        choices = about.get("choices", (value,))
        if value not in choices and not ("plugins" in about and is_plugin(about["plugins"], value)):
            known = ", ".join(repr(choice) for choice in choices)
            yield UserError(name, value, f"use one of {known}{nearest(str(value), choices)}")
        words = about.get("switch", (value,))
        if not isinstance(value, bool) and value not in words:
            yield UserError(name, value, f"give true, false or {words[0]}")


def _at_odds(config: Config) -> Iterator[UserError]:
    yield from term_problems(config.objective, corrected=config.triage.correct)
    yield from target_problems(config.objective, config.realign.shares, config.impact.retain_per_conflict)
    for name, path in config.corpus.columns.items():
        if name not in COLUMN_NAMES:
            remedy = f"name what a format knows{nearest(name, COLUMN_NAMES)}: {', '.join(COLUMN_NAMES)}"
            yield UserError("corpus.columns", name, remedy)
        elif not all(path.split(".")):
            yield UserError(f"corpus.columns.{name}", path or "empty", "give a column's name, or a dotted path")
    if config.ray.max_cost and not (config.plan.cpu_hour_price or config.plan.gpu_hour_price):
        remedy = "nothing has a price: give plan.cpu_hour_price or plan.gpu_hour_price too"
        yield UserError("ray.max_cost", config.ray.max_cost, remedy)
    yield from sampler_problems(config)
    yield from round_problems(config)
    yield from _check_realign(config.realign)
    yield from deepspeed_problems(config.realign, config.model.dtype)
    yield from _check_parameters(config)


PLACEHOLDER = "REPLACE-ME"


def unfilled(config: Config) -> Iterator[UserError]:
    """Yields the settings that a shipped file leaves for its reader to fill in."""
    for name, value, _ in leaves(config):
        if PLACEHOLDER in str(value):
            yield UserError(name, value, f"put your own in place of {PLACEHOLDER}-...")


def check_needed(config: Config, stages: Sequence[str]) -> None:
    """Raises UserError where a setting that one of the stages needs is empty."""
    asked = stages
    if "triage" in stages and not config.corpus.paths:
        raise UserError("corpus.paths", "empty", "name the files of preference pairs, e.g. corpus.paths=[pairs.jsonl]")
    if {"impact", "realign", "evaluate"} & set(stages) and not config.model.path:
        raise UserError("model.path", "empty", "name the model to realign: a hub id or a folder")
    stages = with_selection(config, stages)
    for name, judge in (triage_judges(config.triage) | {"evaluate.judge": config.evaluate.judge}).items():
        if name.split(".")[0] in stages and judge.backend not in WITHOUT_MODEL and not judge.model:
            raise UserError(f"{name}.model", "empty", f"name the judge's model, or set {name}.backend=rules")
    if "evaluate" in asked and not (config.corpus.holdout or config.corpus.test_paths or config.evaluate.prompt_file):
        remedy = "nothing is held out to evaluate on: raise it, or name corpus.test_paths or evaluate.prompt_file"
        raise UserError("corpus.holdout", 0, remedy)


def _check_realign(realign: RealignConfig) -> Iterator[UserError]:
    for name, share in realign.shares.items():
        if name not in TRAINED:
            known = ", ".join(TRAINED)
            yield UserError("realign.shares", name, f"name categories among {known}{nearest(name, TRAINED)}")
        if share < 0:
            yield UserError(f"realign.shares.{name}", share, "give a share of 0 or more")
    if realign.shares and not any(realign.shares.values()):
        yield UserError("realign.shares", 0, "give some category a share above 0, or leave it empty")
    for name in realign.trackers:
        if name not in TRACKERS and not is_plugin("trackers", name):
            yield UserError("realign.trackers", name, f"use some of {', '.join(TRACKERS)}{nearest(name, TRACKERS)}")
    if realign.use_gpu not in (True, False, AUTO):
        yield UserError("realign.use_gpu", realign.use_gpu, "give true, false or auto")
    if realign.offload != "none" and realign.zero_stage < (3 if realign.offload == "all" else 1):
        needed = "realign.zero_stage=3" if realign.offload == "all" else "realign.zero_stage of 1 or more"
        yield UserError("realign.offload", realign.offload, f"it needs {needed}")


def _check_parameters(config: Config) -> Iterator[UserError]:
    """What is trained against what it is compared with and what stage 2 leaves behind."""
    realign = config.realign
    if (
        any(config.objective.compared(name) for name in TRAINED)
        and realign.kl_reference == "same_weights"
        and realign.tune == "full"
    ):
        remedy = "with tune=full there is no adapter to turn off: use frozen_copy or top_k"
        yield UserError("realign.kl_reference", "same_weights", remedy)
    if config.objective.weights == "u2a" and "full" in (realign.tune, config.impact.parameters):
        remedy = "its rounds hand an adapter on: use realign.tune=lora and impact.parameters=lora"
        yield UserError("objective.weights", "u2a", remedy)
    if (config.impact.parameters, realign.tune) == ("full", "lora"):
        remedy = "it leaves no initial adapter to train: use impact.parameters=lora, or realign.tune=full"
        yield UserError("impact.parameters", "full", remedy)
    yield from select_problems(config)
    if realign.stores_reference:
        yield from _reference_problems(config.objective, realign.kl_reference)
    if realign.kl_reference == "hidden" and realign.tune == "full":
        remedy = "stored hidden states go through the head, which tune=full trains: use frozen_copy or top_k"
        yield UserError("realign.kl_reference", "hidden", remedy)
    if realign.kl_reference == "frozen_copy" and realign.tune == "lora":
        yield UserError(
            "realign.kl_reference", "frozen_copy", "an adapter needs no second copy: use same_weights or top_k"
        )


def _reference_problems(objective: ObjectiveConfig, stored: str) -> Iterator[UserError]:
    """What is stored is of one response of RETAIN; under ``top_k`` of its likeliest tokens alone."""
    for name, term in named_terms(objective):
        retain = name.startswith("objective.RETAIN")
        served = retain and (stored == "hidden" or term.entry.top_k_value)
        if term.entry.needs_reference_logits and not served:
            remedy = f"realign.kl_reference={stored} serves a kl on RETAIN only: use another loss, or another reference"
            yield UserError(f"{name}.loss", term.loss, remedy)
    if len(objective.compared("RETAIN")) > 1:
        remedy = f"realign.kl_reference={stored} stores one response's distributions: prefer the same in each term"
        yield UserError("objective.RETAIN", list(objective.compared("RETAIN")), remedy)


def triage_judges(triage: TriageConfig) -> dict[str, JudgeConfig]:
    """Returns {setting's name: judge} of the judges that triage uses."""
    named = {name: getattr(triage, name) for name in JUDGES}
    return {f"triage.{name}": judge for name, judge in named.items() if judge is not None}


def _check_audit(triage: TriageConfig, policy: PolicyConfig) -> Iterator[UserError]:
    labelled = bool(triage.audit_labels)
    for name, used in (
        ("calibration", triage.calibration != "none"),
        ("false_invert_rate", triage.false_invert_rate > 0),
    ):
        if used and not labelled:
            seen = getattr(triage, name)
            yield UserError(f"triage.{name}", seen, "it is fitted on labels: set triage.audit_labels too")
    if labelled and triage.audit_file:
        yield UserError("triage.audit_file", triage.audit_file, "an audit comes from it or from triage.audit_labels")
    if triage.audit_by == "clause" and not (policy.clauses and tells_clauses(triage)):
        remedy = "no verdict tells of clauses: give policy.clauses and triage.clauses=true, or use source"
        yield UserError("triage.audit_by", "clause", remedy)


def _check_template_dates(config: Config) -> Iterator[UserError]:
    for name, day in template_dates(config).items():
        try:
            dt.date.fromisoformat(day or "2000-01-01")
        except ValueError:
            yield UserError(f"{name}.chat_template_date", day, "give a day as 2026-01-31")


def _check_engine(where: str, engine: Mapping[str, Any]) -> Iterator[UserError]:
    yield from _raised(lambda: refuse_code(where, engine))
    tokens = engine.get("max_model_len", 1)
    try:
        fits = int(tokens) >= 1
    except (ValueError, TypeError):
        fits = False
    if not fits:
        yield UserError(f"{where}.max_model_len", tokens, "give a number of tokens, at least 1")
