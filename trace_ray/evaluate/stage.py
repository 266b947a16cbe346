"""Stage 4 on Ray: vLLM answers prompts with base and realigned model, a judge decides; drift and capability beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from typing import Any

from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.data_pool import pooled
from trace_ray.config import Config, EvaluateConfig, JudgeConfig, StorageConfig, judge_name, settings
from trace_ray.config.gpus import of_stages
from trace_ray.config.policy import policy_identity
from trace_ray.errors import UserError
from trace_ray.evaluate.answering import AnswerJudge, Chunk, Generator, chunks, tokens_of
from trace_ray.evaluate.attacks import attack_metrics, attacking_prompts
from trace_ray.evaluate.audit import audit_judge
from trace_ray.evaluate.corrected import corrected_metrics
from trace_ray.evaluate.labelled import AUDIT, Audited, Labels, audited_texts
from trace_ray.evaluate.models_stage import model_metrics
from trace_ray.evaluate.prompt_files import Row
from trace_ray.evaluate.prompts import PROMPT_COLUMNS, dev_prompts, held_out_prompts, own_prompts
from trace_ray.evaluate.refused import taken
from trace_ray.evaluate.tpa import compliance, evaluation_metrics
from trace_ray.evaluate.trial import to_be_tried
from trace_ray.judges.against_labels import without_curve
from trace_ray.judges.unreadable import Unread, unread_tally
from trace_ray.model.loading import load_chat_tokenizer
from trace_ray.pairs import MODELS
from trace_ray.runs.anew import begin, may_decide_anew
from trace_ray.runs.artifacts import CANARIES, EVALUATION_METRICS, GENERATED, REFUSED, RESPONSES, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runs.lineage import lineage
from trace_ray.runtime.progress import Meter, warn
from trace_ray.storage.location import Location, expand, locate
from trace_ray.storage.traffic import Traffic

ATTACKS = "attacks"


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


def audits_anew(run: Run, config: Config) -> bool:
    """Returns whether a finished evaluation is to hold its judge to other labels or limits than it did."""
    changes = run.evaluation.changes(evaluate_inputs(run, config)) if run.evaluation.done() else {}
    return bool(changes) and may_decide_anew(run, "evaluate", changes)


def run_evaluate(run: Run, config: Config) -> None:
    """Writes evaluation/: generated/, responses/, attacks/, audit/ and metrics.json.

    Raises: JudgeRejectedError where canaries or labels refuse the judge.
    """
    inputs, labels = evaluate_inputs(run, config), Labels.read(config)
    started = time.monotonic()
    if not begin(run, "evaluate", inputs):
        return
    place, evaluate, requests = run.evaluation.place, config.evaluate, Traffic.begun()
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
    _generate(run, config, todo, requests)
    audited = audited_texts(run, labels, todo, place / GENERATED) if labels else None
    judged = _judge(run, config, todo, audited, requests)
    answers = _answers(place / RESPONSES, prompts)
    refuse_unreadable(evaluate, answers)
    metrics = evaluation_metrics(answers, evaluate.resamples, evaluate.seed)
    if attacks:
        rows = _answers(place / ATTACKS, attacks)
        metrics["attacks"] = attack_metrics(rows, evaluate.attacks, evaluate.resamples, evaluate.seed)
    measured, told = model_metrics(run, config, requests)
    metrics |= _audited(place, config, audited, answers) | measured
    facts = {"judge": judge_name(evaluate.judge), "judge_is_triage_judge": same}
    facts |= {"lineage": lineage(config.model.path, config.storage)}
    (place / EVALUATION_METRICS).write_text(json.dumps(metrics | facts, indent=1))
    counts = {"prompts": len(prompts), "responses": len(MODELS) * len(prompts), "attacks": len(MODELS) * len(attacks)}
    counts["refused_prompts"] = len(asked) - len(prompts) + len(attacking) - len(attacks)
    tokens = tokens_of(part for folder in (place / GENERATED, *judged) for part in folder.files(".parquet"))
    requests.own("driver")
    facts |= {"gpus": of_stages(config, ["evaluate"]), "requests": requests.told(), **told}
    run.evaluation.publish(counts=counts, seconds=time.monotonic() - started, tokens=tokens, **facts)


def _generate(run: Run, config: Config, todo: list[Chunk], requests: Traffic) -> None:
    """Has each model answer its chunks, one model after the other."""
    out, evaluate = run.evaluation.place / GENERATED, config.evaluate
    pool = JudgeConfig(num_cpus=evaluate.num_cpus, num_gpus=evaluate.gpus, label_selector=evaluate.label_selector)
    for model in MODELS:
        mine = [chunk for chunk in todo if chunk.model == model]
        merged = None if model == MODELS[0] else run.model.place / "merged"
        _run_pool(f"evaluate: {model}", Generator, (config, merged, out), mine, [out], pool, requests)


def _judge(run: Run, config: Config, todo: list[Chunk], audited: Audited | None, requests: Traffic) -> list[Location]:
    """Judges the chunks, those with labelled texts first, and returns the folders of the judged ones."""
    place = run.evaluation.place
    judged = [place / RESPONSES, place / ATTACKS, place / AUDIT]
    untried = to_be_tried(run, config, place / CANARIES)
    seeds = [Chunk(RESPONSES, model, 0, []).name for model in MODELS] if untried else ()
    arguments = (config, place / GENERATED, place, seeds)
    label, pool = "evaluate: judge", config.evaluate.judge
    if audited is None:
        _run_pool(label, AnswerJudge, arguments, todo, judged, pool, requests)
    else:
        labelled, known = {chunk.name for chunk in audited.chunks}, audited
        first = (labelled, lambda: audit_judge(place, config, known))
        _run_pool(label, AnswerJudge, arguments, audited.first(todo), judged, pool, requests, first)
    return judged


def _audited(place: Location, config: Config, audited: Audited | None, answers: list[Row]) -> dict[str, Any]:
    """Returns how good the judge of the answers is, and the agreement corrected by that; of either what there is."""
    tried = place / CANARIES
    canaries = {"judge_canaries": json.loads(tried.read_text())} if tried.exists() else {}
    if audited is None:
        return canaries
    figures, rates = audit_judge(place, config, audited)
    corrected = corrected_metrics(compliance(answers, "category"), rates)
    if not corrected:
        warn("evaluate.audit_labels: too few labels of a kind, or a judge no better than chance: nothing is corrected")
    return canaries | {"judge_audit": without_curve(figures), **corrected}


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


def _run_pool(
    label: str,
    actor: type,
    arguments: Any,
    chunks: list[Chunk],
    out: list[Location],
    pool: JudgeConfig,
    requests: Traffic,
    first: tuple[Collection[str], Callable[[], object]] = ((), lambda: None),
) -> None:
    """Runs the chunks whose part is not yet in one of the folders ``out`` through a pool of actors.

    Args:
        first: names of chunks, and what is done once they are finished, as early as that is: it may raise.
    """
    finished = {part.name for folder in out for part in folder.files(".parquet")}
    todo = [chunk for chunk in chunks if chunk.name not in finished]
    waiting, then = set(first[0]) - finished, first[1]
    if not waiting:
        then()
    with Meter(label, sum(len(c.prompts) for c in chunks), "answers") as meter:
        meter.skip(sum(len(c.prompts) for c in chunks if c.name in finished))
        for row in pooled(actor, arguments, [{"chunk": chunk} for chunk in todo], pool):
            requests.add(label.removeprefix("evaluate: "), json.loads(row["traffic"]))
            meter.advance(row["rows"])
            if row["chunk"] in waiting:
                waiting.remove(row["chunk"])
                if not waiting:
                    then()
