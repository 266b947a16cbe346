"""Stage 4 on Ray: vLLM answers prompts with base and realigned model, a judge decides; drift and capability beside it."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Mapping
from itertools import chain
from typing import Any

from trace_ray.cluster.connection import ensure_ray, pooled
from trace_ray.config import Config, EvaluateConfig, JudgeConfig, StorageConfig, judge_name, settings
from trace_ray.config.gpus import of_stages
from trace_ray.config.policy import policy_identity
from trace_ray.errors import UserError
from trace_ray.evaluate.answering import AnswerJudge, Chunk, Generator, chunks, tokens_of
from trace_ray.evaluate.attacks import attack_metrics, attacking_prompts
from trace_ray.evaluate.audit import AUDIT, audit_figures, judged_labels, write_labelled
from trace_ray.evaluate.corrected import Rates, corrected_metrics
from trace_ray.evaluate.drift_sum import DriftSum
from trace_ray.evaluate.models import measure_capability, measure_drift
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import (
    PROMPT_COLUMNS,
    dev_prompts,
    drift_draws,
    drift_rows,
    held_out_prompts,
    own_prompts,
)
from trace_ray.evaluate.refused import taken
from trace_ray.evaluate.tpa import compliance, evaluation_metrics
from trace_ray.judges.labels import Label, read_labels
from trace_ray.judges.unreadable import Unread, unread_tally
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import MODELS, Split
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import EVALUATION_METRICS, GENERATED, REFUSED, RESPONSES, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runs.lineage import lineage
from trace_ray.runtime.progress import Meter, warn
from trace_ray.storage.location import Location, expand, locate

ATTACKS = "attacks"
_GROUPS = 64
"""Tasks that draw the drift's pairs, at most."""


def evaluate_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the answers and their verdicts depend on."""
    evaluate = config.evaluate
    merged: dict[str, Any] = {"model": run.model.manifest()["inputs_hash"], **settings(evaluate, "evaluate")}
    merged |= settings(config.model, "model")
    merged |= {"policy": policy_identity(config.policy), "triage.threshold": config.triage.threshold}
    merged["model files"] = model_identity(config.model.path, config.model.revision, config.storage)
    judge = evaluate.judge
    if judge.backend == "vllm":
        merged["evaluate.judge: model files"] = model_identity(judge.model, judge.revision, config.storage)
    files = {"prompt_file": evaluate.prompt_file, "attacks.prompts": evaluate.attacks.prompts}
    files |= {"attacks.templates": evaluate.attacks.templates, "audit_labels": evaluate.audit_labels}
    folder = evaluate.capability.task_folder
    if folder:
        tasks = {file.name: file.fingerprint() for file in locate(folder, config.storage).files()}
        merged["evaluate.capability.task_folder content"] = tasks
    for name, path in files.items():
        if path:
            merged[f"evaluate.{name} content"] = _file(path, config.storage, f"evaluate.{name}").fingerprint()
    return merged


def _file(path: str, storage: StorageConfig, setting: str) -> Location:
    return expand((path,), storage, setting)[0]


def run_evaluate(run: Run, config: Config) -> None:
    """Writes evaluation/: generated/, responses/, attacks/, audit/ and metrics.json."""
    inputs = evaluate_inputs(run, config)
    started = time.monotonic()
    if not begin(run, "evaluate", inputs):
        return
    place, evaluate = run.evaluation.place, config.evaluate
    same = same_judge(evaluate.judge, config.triage.judge)
    if same:
        warning = (
            f"evaluate.judge is the judge of triage ({evaluate.judge.model}): its mistakes count as agreement; "
            "name another model, or a rules policy"
        )
        warn(warning)
    asked, attacking = evaluation_prompts(run, config), attacking_prompts(evaluate.attacks, config.storage)
    tokenizer = load_chat_tokenizer(config.model)
    prompts = taken(asked, tokenizer, place / REFUSED / "prompts.parquet")
    attacks = taken(attacking, tokenizer, place / REFUSED / "attacks.parquet") if attacking else []
    ensure_ray(config.ray)
    todo = [*chunks(RESPONSES, prompts), *chunks(ATTACKS, attacks)]
    labels = _audit_labels(config)
    for model in MODELS:
        mine = [chunk for chunk in todo if chunk.model == model]
        merged = None if model == MODELS[0] else run.model.place / "merged"
        arguments = (config, merged, place / GENERATED)
        pool = JudgeConfig(num_cpus=evaluate.num_cpus, num_gpus=evaluate.gpus, label_selector=evaluate.label_selector)
        _run_pool(f"evaluate: {model}", Generator, arguments, mine, [place / GENERATED], pool)
    judged = [place / RESPONSES, place / ATTACKS, place / AUDIT]
    todo += write_labelled(run, labels, place / GENERATED) if labels else []
    _run_pool("evaluate: judge", AnswerJudge, (config, place / GENERATED, place), todo, judged, evaluate.judge)
    answers = _answers(place / RESPONSES, prompts)
    refuse_unreadable(evaluate, answers)
    metrics = evaluation_metrics(answers, evaluate.resamples, evaluate.seed)
    if attacks:
        rows = _answers(place / ATTACKS, attacks)
        metrics["attacks"] = attack_metrics(rows, evaluate.attacks, evaluate.resamples, evaluate.seed)
    metrics |= _audited(place, labels, answers)
    metrics |= _model_metrics(run, config)
    facts = {"judge": judge_name(evaluate.judge), "judge_is_triage_judge": same}
    facts |= {"lineage": lineage(config.model.path, config.storage)}
    (place / EVALUATION_METRICS).write_text(json.dumps(metrics | facts, indent=1))
    counts = {"prompts": len(prompts), "responses": len(MODELS) * len(prompts), "attacks": len(MODELS) * len(attacks)}
    counts["refused_prompts"] = len(asked) - len(prompts) + len(attacking) - len(attacks)
    tokens = tokens_of(part for folder in (place / GENERATED, *judged) for part in folder.files(".parquet"))
    facts["gpus"] = of_stages(config, ["evaluate"])
    run.evaluation.publish(counts=counts, seconds=time.monotonic() - started, tokens=tokens, **facts)


def _audit_labels(config: Config) -> Mapping[str, Label]:
    setting, path = "evaluate.audit_labels", config.evaluate.audit_labels
    return read_labels(_file(path, config.storage, setting), setting) if path else {}


def _audited(place: Location, labels: Mapping[str, Label], answers: list[Row]) -> dict[str, Any]:
    """Returns how good the judge of the answers is, and the agreement corrected by that; nothing without labels."""
    if not labels:
        return {}
    judged = judged_labels(place / AUDIT, labels)
    corrected = corrected_metrics(compliance(answers, "category"), Rates.of(judged))
    if not corrected:
        warn("evaluate.audit_labels: too few labels of a kind, or a judge no better than chance: nothing is corrected")
    return {"judge_audit": audit_figures(judged), **corrected}


def same_judge(judge: JudgeConfig, other: JudgeConfig) -> bool:
    """Returns whether two judges would err alike: one model, at one revision, whoever serves it. Rules do not err."""
    if "rules" in (judge.backend, other.backend):
        return False
    return (judge.model.rstrip("/"), judge.revision) == (other.model.rstrip("/"), other.revision)


def evaluation_prompts(run: Run, config: Config) -> list[Row]:
    """Returns the prompts that TPA is measured on. Raises UserError where there is none."""
    evaluate = config.evaluate
    if evaluate.prompt_file:
        return own_prompts(evaluate, config.storage)
    dev = {row["pair_id"] for row in dev_prompts(run.triaged, config.realign.select)}
    prompts = held_out_prompts(run.triaged.tables(PROMPT_COLUMNS), evaluate.prompts, apart=dev)
    if not prompts:
        remedy = "raise corpus.holdout, or name corpus.test_paths or evaluate.prompt_file"
        raise UserError("corpus.holdout", "no held-out prompt", remedy)
    return prompts


def _answers(place: Location, prompts: list[Row]) -> list[Row]:
    rows = [row for part in place.files(".parquet") for row in part.read_parquet().to_pylist()]
    if len(rows) != len(MODELS) * len(prompts):
        raise RuntimeError(f"evaluate lost answers: {len(rows)} of {len(MODELS) * len(prompts)} in {place.uri}")
    return rows


def refuse_unreadable(evaluate: EvaluateConfig, answers: list[Row]) -> None:
    """An answer without a verdict counts as not compliant, so a judge that cannot be read would find every model bad."""
    limit = ("evaluate.max_unreadable", evaluate.max_unreadable)
    unread = Unread("evaluate.judge", judge_name(evaluate.judge), *limit)
    unread.add(unread_tally((row["p_violates"], row["judge_error"]) for row in answers))
    unread.refuse()


def _model_metrics(run: Run, config: Config) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    if config.evaluate.drift_pairs:
        metrics["drift"] = _drift(run, config)
    if config.evaluate.capability.tasks:
        metrics["capability"] = _capability(run, config)
    return metrics


def _drift(run: Run, config: Config) -> dict[str, Any]:
    """Returns the drift's figures, empty where the corpus has no RETAIN pair."""
    import ray

    rows = _drift_pairs(run, config.evaluate)
    if not rows:
        return {}
    done = DriftSum()
    measured = ray.remote(num_returns="streaming", **_one_model(config.evaluate))(measure_drift)
    with Meter("evaluate: drift", len(rows), "pairs") as meter:
        for batch in measured.remote(run, config, rows):
            some = ray.get(batch)
            done += some
            meter.advance(some.pairs)
    held_out = sum(row["split"] == Split.TEST for row in rows)
    return done.figures() | {"pairs": len(rows), "held_out_pairs": held_out}


def _drift_pairs(run: Run, evaluate: EvaluateConfig) -> list[Row]:
    """Returns ``prompts.drift_pairs``: tasks draw from the parts in groups, one more reads the texts of those drawn."""
    import ray

    names, limit = run.triaged.manifest()["parts"], evaluate.drift_pairs
    options = {"num_cpus": 1, "label_selector": evaluate.label_selector or None}
    draw, read = ray.remote(**options)(drift_draws), ray.remote(**options)(drift_rows)
    count = min(_GROUPS, len(names))
    drawn = ray.get([draw.remote(run.triaged, names[i::count], limit) for i in range(count)])
    rows: list[Row] = ray.get(read.remote(run.triaged, heapq.nsmallest(limit, chain.from_iterable(drawn))))
    return rows


def _capability(run: Run, config: Config) -> dict[str, Any]:
    """Returns model -> the harness' figures, one model after the other."""
    import ray

    harness = ray.remote(**_one_model(config.evaluate))(measure_capability)
    figures: dict[str, Any] = {}
    with Meter("evaluate: capability", len(MODELS), "models") as meter:
        for model in MODELS:
            figures[model] = ray.get(harness.remote(run, config, model))
            meter.advance(1)
    return figures


def _one_model(evaluate: EvaluateConfig) -> dict[str, Any]:
    """Returns the options of a task that loads a model: its process ends with it, as its memory does."""
    placed = {"num_gpus": evaluate.gpus or None, "label_selector": evaluate.label_selector or None}
    return {"num_cpus": evaluate.num_cpus, **placed, "max_calls": 1}


def _run_pool(
    label: str, actor: type, arguments: Any, chunks: list[Chunk], out: list[Location], pool: JudgeConfig
) -> None:
    """Runs the chunks whose part is not yet in one of the folders ``out`` through a pool of actors."""
    finished = {part.name for folder in out for part in folder.files(".parquet")}
    todo = [chunk for chunk in chunks if chunk.name not in finished]
    with Meter(label, sum(len(c.prompts) for c in chunks), "answers") as meter:
        meter.skip(sum(len(c.prompts) for c in chunks if c.name in finished))
        for row in pooled(actor, arguments, [{"chunk": chunk} for chunk in todo], pool):
            meter.advance(row["rows"])
