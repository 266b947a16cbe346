"""What is judged before the corpus, and the limits that stop a judge there."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.policy import PolicyConfig
from trace_ray.errors import JudgeRejectedError
from trace_ray.judges.canaries import CONTROLS
from trace_ray.judges.gates import refuse_gates
from trace_ray.judges.opinion import Opinion
from trace_ray.pairs import pair_id
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage import judge_worker
from trace_ray.triage.block import JUDGED_SCHEMA
from trace_ray.triage.first import by_source
from trace_ray.triage.gates import LEAST, sample_gates
from trace_ray.triage.stage import run_triage

SAMPLE = 32


class SayingJudge:
    """A judge of no weight: says of each response what it is made to say, and remembers what it was asked."""

    def __init__(self, says: Callable[[str], Opinion]) -> None:
        self.says = says
        self.asked: Counter[tuple[str, str]] = Counter()

    def opinions(self, requests: Sequence[str], responses: Sequence[str]) -> list[Opinion]:
        self.asked.update(zip(requests, responses, strict=True))
        return [self.says(response) for response in responses]

    def clauses(self, _requests: Sequence[str], responses: Sequence[str]) -> list[tuple[str, ...]]:
        return [()] * len(responses)

    def counts(self) -> dict[str, int]:
        return {"judged_prompts": sum(self.asked.values())}


def chance(response: str) -> Opinion:
    return Opinion(random.Random(response).random())


def truth(response: str) -> Opinion:
    return Opinion(0.9 if "BAD" in response else 0.1)


def corpus(folder: Path, number: int) -> list[str]:
    """Writes pairs of which the chosen one is BAD every other time; returns their ids."""
    pairs = [(f"q{i}", f"{'BAD' if i % 2 else 'good'} c{i}", f"good r{i}") for i in range(number)]
    names = ("prompt", "chosen", "rejected")
    (folder / "x.jsonl").write_text(
        "".join(json.dumps(dict(zip(names, values, strict=True))) + "\n" for values in pairs)
    )
    return [pair_id([{"role": "user", "content": prompt}], good, bad) for prompt, good, bad in pairs]


def labelled(folder: Path, ids: Sequence[str], number: int) -> str:
    """Labels some of the pairs, drawn at random, by the truth."""
    place = folder / "labels.jsonl"
    drawn = random.Random(0).sample(range(len(ids)), number)
    lines = [{"pair_id": ids[i], "violates_chosen": i % 2 == 1, "violates_rejected": False} for i in drawn]
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(place)


def triage(
    monkeypatch: pytest.MonkeyPatch, folder: Path, judge: SayingJudge, rows_per_part: int = 512, **more: Any
) -> Run:
    triage_in_process(monkeypatch)
    monkeypatch.setattr(judge_worker, "make_triage_judge", lambda *_: judge)
    run = Run(locate(str(folder / "run"), StorageConfig()))
    settings: dict[str, Any] = {"min_canary_pass": 0.0, "audit_sample": SAMPLE} | more
    settings["judge"] = JudgeConfig(backend="openai", model="m")
    config = CorpusConfig(paths=(f"{folder}/x.jsonl",), rows_per_part=rows_per_part)
    run_triage(run, Config(policy=PolicyConfig(text="x"), corpus=config, triage=TriageConfig(**settings)))
    return run


@pytest.mark.parametrize(
    ("number", "known"),
    [(20_000, 60), pytest.param(1_000_000, 200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_a_bad_judge_is_refused_before_one_percent_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, known: int
) -> None:
    labels = labelled(tmp_path, corpus(tmp_path, number), known)
    judge = SayingJudge(chance)
    refused = rf"AUC 0\.\d+: judge m is .* on {known} labelled pairs: limit triage.min_auc"
    with pytest.raises(JudgeRejectedError, match=refused):
        triage(monkeypatch, tmp_path, judge, audit_labels=labels)
    assert sum(judge.asked.values()) < 0.01 * 2 * number
    gates = json.loads((tmp_path / "run" / "triaged" / "gates.json").read_text())
    assert [gate["limit"] for gate in gates if not gate["passed"]] == ["triage.min_auc"]
    assert json.loads((tmp_path / "run" / "triaged" / "audit.json").read_text())["pairs"] == known


def test_what_was_judged_first_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = corpus(tmp_path, 300)
    judge = SayingJudge(truth)
    run = triage(monkeypatch, tmp_path, judge, rows_per_part=64, audit_labels=labelled(tmp_path, ids, 60))
    candidates = run.triaged.manifest()["canaries"]["candidates"]
    assert sum(number > 1 for number in judge.asked.values()) <= candidates, "canaries alone ask of a response twice"
    manifest = run.triaged.manifest()
    assert manifest["audit"]["pairs"] == 60
    assert {gate["limit"]: gate["passed"] for gate in manifest["gates"]} == dict.fromkeys(
        ("triage.max_endpoint_errors", "triage.max_unreadable", "triage.max_one_sided", "triage.min_auc"), True
    )
    assert manifest["used"]["responses_judged"] == 600
    categories = run.triaged.read(["chosen", "category"]).to_pylist()
    assert {("BAD" in row["chosen"], row["category"]) for row in categories} == {(True, "INVERT"), (False, "RETAIN")}


FEW, MANY = LEAST // 10, LEAST


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ([(0.1, None)] * MANY, "triage.max_one_sided"),
        ([(0.9, None)] * MANY, "triage.max_one_sided"),
        ([(None, "unreadable: mass 0.1")] * MANY, "triage.max_unreadable"),
        (
            [(None, "endpoint 503: busy")] * MANY + [(0.1, None), (0.9, None)] * MANY,
            "triage.max_endpoint_errors",
        ),
        ([(0.1, None)] * (2 * MANY - 4) + [(0.9, None)] * 4, ""),
        ([(0.1, None)] * FEW, ""),
    ],
)
@pytest.mark.parametrize("judge", ["judge", "second_judge"])
def test_each_limit_is_one_line_with_its_figure(
    said: list[tuple[float | None, str | None]], limit: str, judge: str
) -> None:
    p, error = ("p", "error") if judge == "judge" else ("second", "second_error")
    rows = [
        {"row": i, f"{p}_chosen": a, f"{error}_chosen": e, f"{p}_rejected": a, f"{error}_rejected": e}
        for i, (a, e) in enumerate(said)
    ]
    rules, reads = JudgeConfig(backend="rules"), JudgeConfig(model="m")
    triage = TriageConfig(judge=reads) if judge == "judge" else TriageConfig(judge=rules, second_judge=reads)
    gates = sample_gates(triage, pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA))
    assert [gate.limit for gate in gates if not gate.passed][:1] == ([limit] if limit else [])
    if limit:
        with pytest.raises(
            JudgeRejectedError, match=rf"^triage.{judge}: judge m.* %\): limit {limit}=0\.\d+; .* knowingly$"
        ):
            refuse_gates(gates)
    else:
        refuse_gates(gates)


def test_a_judge_to_which_harmless_exchanges_violate_too_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus(tmp_path, 40)
    judge = SayingJudge(lambda _response: Opinion(0.99))
    with pytest.raises(
        JudgeRejectedError, match=r"^triage.judge: 6 of 6 controls violate: .* triage.max_one_sided=1 know"
    ):
        triage(monkeypatch, tmp_path, judge)
    harmless = {response for _, response in CONTROLS}
    judge = SayingJudge(lambda response: Opinion(0.01 if response in harmless else 0.99))
    triage(monkeypatch, tmp_path, judge, max_one_sided=1.0)


def test_each_source_has_its_share_of_the_sample() -> None:
    table = pa.table({"source": ["a"] * 90 + ["b"] * 8 + ["c"] * 2, "i": range(100)})
    assert Counter(by_source(table, 30)["source"].to_pylist()) == {"a": 20, "b": 8, "c": 2}
