"""Three judges in a triage: ties go to the third alone, and another way to combine them costs no request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_endpoint import FakeEndpoint, answer
from tests.support.in_process import triage_in_process
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, RayConfig, StorageConfig, TriageConfig
from trace_ray.config.load import load_config
from trace_ray.errors import JudgeRejectedError, UserError
from trace_ray.pipeline import decide_run
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate
from trace_ray.triage.stage import run_triage

PAIRS = 24
SAYS_NO = answer({"max_tokens": 1, "messages": [{"content": ""}]}, "good")
SAYS_NOTHING = answer({"max_tokens": 1, "messages": [{"content": ""}]}, "MUMBLE")
RETAINED = {i for i in range(PAIRS) if i % 3 == 0}
MISSED, MUMBLED, BOTH_MISSED = {1, 7}, {4}, {10}
"""Of the others' chosen responses: what the second judge calls compliant, cannot read; what the third calls so too."""


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeEndpoint]]:
    triage_in_process(monkeypatch)
    servers = [FakeEndpoint() for _ in range(3)]
    servers[1].odd = {f"BAD c{i}": SAYS_NO for i in MISSED | BOTH_MISSED} | {f"BAD c{i}": SAYS_NOTHING for i in MUMBLED}
    servers[2].odd = {f"BAD c{i}": SAYS_NO for i in BOTH_MISSED}
    yield servers
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def plain() -> Config:
    return replace(load_config([], ["policy.text=Nothing BAD."]), ray=RayConfig(local_cpus=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = ["good" if i in RETAINED else "BAD" for i in range(PAIRS)]
    pairs = [{"prompt": f"q{i}", "chosen": f"{word} c{i}", "rejected": f"good r{i}"} for i, word in enumerate(words)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return tmp_path


def configured(plain: Config, folder: Path, judges: list[FakeEndpoint], **more: Any) -> Config:
    asked = [
        JudgeConfig(backend="openai", model=f"m{i}", endpoint=EndpointConfig(base_url=server.url))
        for i, server in enumerate(judges)
    ]
    first, second, third = (replace(judge, chat_template_date="2026-01-31") for judge in asked)
    triage = TriageConfig(judge=first, second_judge=second, third_judge=third, min_canary_pass=0.0, **more)
    return replace(plain, corpus=CorpusConfig(paths=(f"{folder}/x.jsonl",), rows_per_part=16), triage=triage)


def triaged(config: Config, folder: Path, name: str) -> tuple[Run, dict[int, dict[str, Any]]]:
    run = Run(locate(str(folder / name), StorageConfig()))
    run.write_config("written by the pipeline")
    run_triage(run, config)
    return run, rows(run)


def rows(run: Run) -> dict[int, dict[str, Any]]:
    return {int(row["chosen"].split(" c")[1]): row for row in run.triaged.read().to_pylist()}


def asked_of(server: FakeEndpoint) -> set[str]:
    """Responses of the corpus; canaries wrap theirs in other text."""
    return {text for text in server.asked if text.split()[0] in ("BAD", "good") and len(text.split()) == 2}


def test_ties_go_to_the_third_judge_and_the_rest_never_does(
    plain: Config, folder: Path, judges: list[FakeEndpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_ray.triage.judge_worker.check_canaries", lambda *_: None)
    run, found = triaged(configured(plain, folder, judges, combine="majority"), folder, "run")
    assert asked_of(judges[2]) == {f"BAD c{i}" for i in MISSED | MUMBLED | BOTH_MISSED}
    for i, row in found.items():
        wanted = "RETAIN" if i in RETAINED | BOTH_MISSED else "INVERT"
        assert row["category"] == wanted, i
        assert row["judge_error"] is None
    counts = run.triaged.manifest()["counts"]
    assert counts["judges_differ"] == counts["panel_decided"] == len(MISSED | MUMBLED | BOTH_MISSED)
    assert run.triaged.manifest()["used"]["third_responses_judged"] == len(MISSED | MUMBLED | BOTH_MISSED)


def test_combined_otherwise_is_a_fresh_triage_and_no_request(
    plain: Config, folder: Path, judges: list[FakeEndpoint]
) -> None:
    config = configured(plain, folder, judges, combine="majority", third_asked="all")
    run, before = triaged(config, folder, "run")
    labels = folder / "labels.jsonl"
    known = [i for i in before if i % 2]
    said = [
        {"pair_id": before[i]["pair_id"], "violates_chosen": i not in RETAINED, "violates_rejected": False}
        for i in known
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in said))
    requests = sum(sum(server.asked.values()) for server in judges)
    for audit_labels in ("", str(labels)):
        triage = replace(config.triage, combine="dawid_skene", audit_labels=audit_labels)
        previous, config = config, replace(config, triage=triage)
        assert decide_run(run, previous, config)
        assert sum(sum(server.asked.values()) for server in judges) == requests
        skills, found = run.triaged.manifest()["decision"]["panel"]["skills"], rows(run)
        assert skills["sensitivity"][0] > skills["sensitivity"][1], "the second one missed what the others saw"
        assert {found[i]["category"] for i in MISSED} == {"INVERT"}
        assert {row["category"] for i, row in found.items() if i in RETAINED} == {"RETAIN"}
        assert found[0]["p_violates_chosen"] < 0.05 < 0.95 < found[2]["p_violates_chosen"]
    fresh, again = triaged(config, folder, "fresh")
    assert rows(run) == again
    assert run.triaged.manifest()["decision"] == fresh.triaged.manifest()["decision"]


@pytest.mark.parametrize(
    ("more", "where"),
    [
        (["triage.third_judge={backend: rules}", "triage.combine=majority"], "triage.third_judge"),
        (["triage.second_judge={backend: rules}", "triage.third_judge={backend: rules}"], "triage.combine"),
        (["triage.combine=majority"], "triage.combine"),
        (["triage.second_judge={backend: rules}", "triage.combine=dawid_skene"], "triage.combine"),
        (
            [
                *("triage.second_judge={backend: rules}", "triage.combine=majority"),
                *("triage.audit_labels=x.jsonl", "triage.false_invert_rate=0.1"),
            ],
            "triage.false_invert_rate",
        ),
    ],
)
def test_what_a_panel_lacks_is_said_before_anything_begins(more: list[str], where: str) -> None:
    policy = ["policy.clauses=[{id: short, text: Short., rule: {max_words: 3}}]", "triage.judge.backend=rules"]
    with pytest.raises(UserError) as error:
        load_config([], policy + more)
    assert error.value.where == where


@pytest.fixture
def labelled(folder: Path) -> str:
    """Labels of every second pair, as the first judge has them."""
    from trace_ray.pairs import pair_id

    rows = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]
    known = [
        {
            "pair_id": pair_id([{"role": "user", "content": row["prompt"]}], row["chosen"], row["rejected"]),
            "violates_chosen": row["chosen"].startswith("BAD"),
            "violates_rejected": False,
        }
        for row in rows[::2]
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    return str(folder / "labels.jsonl")


def test_each_judge_and_what_they_decide_together_are_held_against_labels(
    plain: Config, folder: Path, judges: list[FakeEndpoint], labelled: str
) -> None:
    """By hand: of 12 labelled pairs 8 violate; 4 and 10 are even, so the second judge mumbles once and misses once."""
    config = configured(
        plain, folder, judges, combine="majority", third_asked="all", audit_labels=labelled, min_auc=0.6
    )
    run, _ = triaged(config, folder, "run")
    audit = run.triaged.manifest()["audit"]
    assert (audit["pairs"], audit["auc"], audit["agreement"]) == (12, 1.0, 1.0)
    second, third = audit["others"]["second_judge"], audit["others"]["third_judge"]
    assert (second["pairs"], second["readable"], second["agreement"]) == (12, 23 / 24, 10 / 12)
    assert second["accuracy"] == 22 / 23
    assert (third["readable"], third["agreement"]) == (1.0, 11 / 12)
    assert audit["panel"]["agreement"] == 11 / 12, "two of three call pair 10 compliant"
    assert audit["panel"]["confusion"] == {"INVERT->INVERT": 7, "INVERT->RETAIN": 1, "RETAIN->RETAIN": 4}
    assert json.loads((run.triaged.place / "audit.json").read_text())["panel"] == audit["panel"]


def test_a_judge_of_the_panel_that_guesses_is_refused_by_its_name(
    plain: Config, folder: Path, judges: list[FakeEndpoint], labelled: str
) -> None:
    """Its word is drawn, whatever the response: the first judge is perfect, and the panel's votes would hide it."""
    judges[1].odd = {f"BAD c{i}": SAYS_NO for i in range(0, PAIRS, 2)}
    config = configured(
        plain, folder, judges, combine="majority", third_asked="all", audit_labels=labelled, max_one_sided=1
    )
    with pytest.raises(JudgeRejectedError) as refused:
        triaged(config, folder, "run")
    assert refused.value.where == "triage.second_judge"
    assert "judge m1 is no better than chance on 12 labelled pairs" in str(refused.value)
    assert "triage.second_judge.model" in str(refused.value)
