"""A further round's beginning on Ray: the model of the round before answers the training prompts, its answers become pairs.

RUN/rounds/NUMBER/answers/ holds generated/, its answers, and verdicts/, what triage's judge says of drawn ones, as pieces of
64 prompts; train/, the round's pairs, and test/, the first round's held-out pairs, a file for each of its triaged parts.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from trace_ray.cluster.connection import ensure_ray
from trace_ray.cluster.data_pool import pooled
from trace_ray.cluster.tasks import by_tasks, groups
from trace_ray.config import Config, JudgeConfig, judge_name, settings
from trace_ray.config.gpus import of_stages
from trace_ray.config.policy import policy_identity
from trace_ray.evaluate.answering import tokens_of
from trace_ray.rounds.answering import OwnAnswers, SampleJudge
from trace_ray.rounds.own import (
    COLUMNS,
    OWN_PAIR_SCHEMA,
    Outcome,
    Piece,
    draws,
    held_out_pairs,
    own_pairs,
    pieces,
    training_prompts,
)
from trace_ray.rounds.settings import TEST, TRAIN
from trace_ray.runs.anew import begin
from trace_ray.runs.artifacts import ANSWERS, GENERATED, VERDICTS, Run
from trace_ray.runs.identity import model_identity
from trace_ray.runs.rounds import first_round
from trace_ray.runtime.progress import Meter, warn
from trace_ray.storage.location import Location
from trace_ray.storage.traffic import Traffic


def answers_inputs(run: Run, config: Config) -> dict[str, Any]:
    """Returns everything that the answers and the pairs of a round depend on."""
    evaluate, judge = settings(config.evaluate, "evaluate"), config.triage.judge
    merged = {"triaged": first_round(run).triaged.manifest()["inputs_hash"]} | settings(config.rounds, "rounds")
    merged |= settings(config.model, "model")
    merged["model files"] = model_identity(config.model.path, config.model.revision, config.storage)
    merged |= {name: evaluate[name] for name in ("evaluate.max_new_tokens", "evaluate.engine")}
    if config.rounds.samples > 1:
        merged |= settings(judge, "triage.judge") | {"policy": policy_identity(config.policy)}
        if judge.backend == "vllm":
            merged["triage.judge: model files"] = model_identity(judge.model, judge.revision, config.storage)
    return merged


def run_answers(run: Run, config: Config) -> None:
    """Writes a further round's answers/.

    Args:
        config: of the round (``rounds.settings.round_config``).
    Raises: RuntimeError where a prompt is lost.
    """
    inputs, started = answers_inputs(run, config), time.monotonic()
    if not begin(run, ANSWERS, inputs):
        return
    ensure_ray(config.ray)
    place, requests = run.answers.place, Traffic.begun()
    triaged, rounds = first_round(run).triaged, config.rounds
    names = triaged.manifest()["parts"]
    most = _cut(names, triaged.place, rounds.seed, rounds.prompts)
    counted = dict(_each(count_prompts, names, triaged.place, rounds.seed, most))
    todo = pieces(counted)
    evaluate, judge = config.evaluate, config.triage.judge
    pool = JudgeConfig(num_cpus=evaluate.num_cpus, num_gpus=evaluate.gpus, label_selector=evaluate.label_selector)
    generated, verdicts = place / GENERATED, place / VERDICTS
    _run_pool("answers: model", OwnAnswers, (config, triaged.place, most, generated), todo, generated, pool, requests)
    if rounds.samples > 1:
        _run_pool("answers: judge", SampleJudge, (config, generated, verdicts), todo, verdicts, judge, requests)
    found = _collect(names, todo, triaged.place, place, judged=rounds.samples > 1)
    tokens = tokens_of(piece for folder in (generated, verdicts) for piece in folder.files(".parquet"))
    requests.own("driver")
    facts = {"model": config.model.path, "judge": judge_name(judge), "gpus": of_stages(config, ["evaluate"])}
    run.answers.publish(
        counts=_accounted(found, sum(counted.values())),
        seconds=time.monotonic() - started,
        tokens=tokens,
        requests=requests.told(),
        **facts,
    )


def _cut(names: Sequence[str], triaged: Location, seed: int, limit: int) -> float:
    """The draw up to which prompts are answered, so that they are ``limit``; 0 = all."""
    if not limit:
        return 1.0
    drawn = heapq.nsmallest(
        limit, (draw for _, some in _each(draw_prompts, names, triaged, seed, limit) for draw in some)
    )
    return drawn[-1] if drawn else 1.0


def _each(task: Any, names: Sequence[str], *shared: Any) -> Iterator[tuple[str, Any]]:
    for found in by_tasks(task, groups(names), *shared):
        yield from found


def count_prompts(names: Sequence[str], triaged: Location, seed: int, most: float) -> list[tuple[str, int]]:
    """Returns (part, how many of its training prompts are answered) of some parts."""
    return [(name, len(training_prompts((triaged / name).read_parquet(COLUMNS), seed, most))) for name in names]


def draw_prompts(names: Sequence[str], triaged: Location, seed: int, limit: int) -> list[tuple[str, list[float]]]:
    """Returns (part, its smallest ``limit`` draws) of some parts."""
    return [(name, heapq.nsmallest(limit, draws((triaged / name).read_parquet(COLUMNS), seed))) for name in names]


def _collect(
    names: Sequence[str], todo: Sequence[Piece], triaged: Location, place: Location, *, judged: bool
) -> Counter[str]:
    """Writes train/ and test/, and returns what was counted."""
    mine: dict[str, list[Piece]] = {name: [] for name in names}
    for piece in todo:
        mine[piece.part].append(piece)
    counts: Counter[str] = Counter()
    for found in by_tasks(collect_part, list(mine.items()), triaged, place, judged):
        counts.update(found)
    return counts


def collect_part(part: tuple[str, Sequence[Piece]], triaged: Location, place: Location, judged: bool) -> Counter[str]:
    """Writes the round's pairs, and the held-out ones, of one triaged part; the same part writes the same files."""
    name, some = part
    counts: Counter[str] = Counter()
    made = [OWN_PAIR_SCHEMA.empty_table()]
    for piece in some:
        verdicts = (place / VERDICTS / piece.name).read_parquet() if judged else None
        pairs, outcomes = own_pairs((place / GENERATED / piece.name).read_parquet(), verdicts)
        made.append(pairs)
        counts.update(outcomes)
    kept = {TRAIN: pa.concat_tables(made), TEST: held_out_pairs((triaged / name).read_parquet())}
    for folder, table in kept.items():
        if table.num_rows:
            (place / folder / name).write_parquet(table)
    counts["held_out"] = kept[TEST].num_rows
    return counts


def _accounted(counts: Mapping[str, int], prompts: int) -> dict[str, int]:
    """Returns the manifest's counts, and says what is left out. Raises RuntimeError where a prompt is lost."""
    told = {str(outcome): counts.get(outcome, 0) for outcome in Outcome}
    if sum(told.values()) != prompts:
        raise RuntimeError(f"a round lost prompts: {prompts} asked, {told}")
    if left := {name: number for name, number in told.items() if number and name != Outcome.PAIR}:
        said = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in left.items())
        warn(f"answers: {told[Outcome.PAIR]} of {prompts} prompts make a pair; left out: {said}")
    return {"prompts": prompts, **told, "held_out": counts.get("held_out", 0)}


def _run_pool(
    label: str,
    actor: type,
    arguments: tuple[Any, ...],
    todo: Sequence[Piece],
    out: Location,
    pool: JudgeConfig,
    requests: Traffic,
) -> None:
    """Runs the pieces that are not in ``out`` yet through a pool of actors."""
    finished = {file.name for file in out.files(".parquet")}
    left = [piece for piece in todo if piece.name not in finished]
    with Meter(label, len(todo), "pieces") as meter:
        meter.skip(len(todo) - len(left))
        for row in pooled(actor, arguments, [{"piece": piece} for piece in left], pool):
            requests.add(label.removeprefix("answers: "), json.loads(row["traffic"]))
            meter.advance(1)
