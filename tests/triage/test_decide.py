"""`trace-ray decide`: the rows of a fresh triage with those settings, and not one request to the judge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import triage_in_process
from trace_ray.cli.decide import decide
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, RayConfig, StorageConfig, TriageConfig
from trace_ray.config.load import dump_config, load_config
from trace_ray.errors import JudgeRejectedError, StaleRunError, UserError
from trace_ray.pipeline import decide_run
from trace_ray.report.page import render
from trace_ray.runs.artifacts import AGAIN, WORK, Run
from trace_ray.runs.opening import hold_settings
from trace_ray.runtime.progress import Meter
from trace_ray.storage.location import locate
from trace_ray.triage import again
from trace_ray.triage.stage import run_triage

KINDS = (("BAD", "good"), ("UNSURE", "good"), ("BAD", "UNSURE"), ("good", "BAD"), ("UNSURE", "BAD"))
PAIRS = 60


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    triage_in_process(monkeypatch)
    server = FakeEndpoint()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kinds = [KINDS[i % len(KINDS)] for i in range(PAIRS)]
    pairs = [{"prompt": f"q{i}", "chosen": f"{a} c{i}", "rejected": f"{b} r{i}"} for i, (a, b) in enumerate(kinds)]
    lines = [json.dumps(pair) for pair in [*pairs, pairs[0]]]  # one repeated: a reject
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    return tmp_path


@pytest.fixture(scope="module")
def plain() -> Config:
    return replace(load_config([], ["policy.text=Nothing BAD."]), ray=RayConfig(local_cpus=2))


def configured(plain: Config, folder: Path, fake: FakeEndpoint, **triage: Any) -> Config:
    endpoint = EndpointConfig(base_url=fake.url)
    judge = JudgeConfig(backend="openai", model="m", endpoint=endpoint, chat_template_date="2026-01-31")
    corpus = CorpusConfig(paths=(f"{folder}/x.jsonl",), rows_per_part=16)
    return replace(plain, corpus=corpus, triage=TriageConfig(judge=judge, min_canary_pass=0.0, **triage))


def triage(config: Config, folder: Path, name: str) -> Run:
    run = Run(locate(str(folder / name), StorageConfig()))
    run.write_config("written by the pipeline")
    run_triage(run, config)
    return run


def changed(config: Config, **triage: Any) -> Config:
    return replace(config, triage=replace(config.triage, **triage))


def rows(run: Run) -> list[dict[str, Any]]:
    return sorted(run.triaged.read().to_pylist(), key=lambda row: row["row"])


def labels(folder: Path, run: Run) -> str:
    """All that is UNSURE violates."""
    return labelled(folder, [(r["pair_id"], "good" not in r["chosen"], "good" not in r["rejected"]) for r in rows(run)])


def labelled(folder: Path, said: list[tuple[str, bool, bool]], name: str = "labels") -> str:
    names = ("pair_id", "violates_chosen", "violates_rejected")
    place = folder / f"{name}.jsonl"
    place.write_text("".join(json.dumps(dict(zip(names, values, strict=True))) + "\n" for values in said))
    return str(place)


def test_rows_are_those_of_a_fresh_triage_and_nothing_is_judged(
    plain: Config, folder: Path, fake: FakeEndpoint
) -> None:
    config = configured(plain, folder, fake)
    run = triage(config, folder, "run")
    known = labels(folder, run)
    settings: list[dict[str, Any]] = [
        {"threshold": 0.6},
        {"threshold": 0.3},
        {"threshold": 0.5, "abstain_band": 0.1},
        {"abstain_band": 0.0, "audit_labels": known, "calibration": "platt"},
        {"calibration": "none", "threshold": 0.6, "review_labels": known},
    ]
    seen = [rows(run)]
    for number, more in enumerate(settings):
        before, config = config, changed(config, **more)
        asked = sum(fake.asked.values())
        assert decide_run(run, before, config)
        assert sum(fake.asked.values()) == asked
        fresh = triage(config, folder, f"fresh{number}")
        assert rows(run) == rows(fresh)
        for name in ("counts", "decision", "audit", "review", "inputs"):
            assert run.triaged.manifest()[name] == fresh.triaged.manifest()[name], name
        for file in ("review", "triaged/audit.json"):
            assert (run.place / file).exists() == (fresh.place / file).exists()
        seen.append(rows(run))
    assert not decide_run(run, config, config)
    assert all(mine != other for mine, other in itertools.pairwise(seen)), "each of the settings makes a difference"


def test_what_an_endpoint_costs_is_told_while_it_is_asked_and_kept(
    plain: Config, folder: Path, fake: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Meter, "advance", lambda _self, _rows, note="": notes.append(note))
    config = configured(plain, folder, fake)
    priced = replace(config.triage.judge.endpoint, prompt_price=2e6, answer_price=5e6)  # 2 and 5 a token
    config = changed(config, judge=replace(config.triage.judge, endpoint=priced))
    run = triage(config, folder, "run")
    requests = sum(fake.asked.values())
    cost = requests * (9 * 2 + 1 * 5)  # each answer is one of ten tokens
    assert run.triaged.manifest()["endpoints"] == {"requests": requests, "tokens": 10 * requests, "price": cost}
    told = [note for note in notes if "requests" in note]
    assert told[-1] == f"{requests:,} requests, {requests / 1e5:.2f} M tokens, {cost:,.2f} spent"
    assert len(told) > 1
    page = render(run, config)
    assert f"<strong>{requests}</strong> requests with {10 * requests:,} tokens: <strong>{cost:,.2f}</strong>" in page


def test_a_review_comes_back_part_by_part_and_what_is_decided_leaves_it(
    plain: Config, folder: Path, fake: FakeEndpoint
) -> None:
    config = configured(plain, folder, fake, abstain_band=0.1)
    run = triage(config, folder, "run")
    parts = (run.place / "review").files(".jsonl")
    undecided = {row["pair_id"] for row in rows(run) if row["category"] == "ABSTAIN"}
    shown = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    assert len(parts) > 1
    assert {row["pair_id"] for row in shown} == undecided
    left = shown[0]["pair_id"]  # nobody has come to it yet
    (folder / "labelled").mkdir()
    for part in parts:
        lines = [json.loads(line) for line in part.read_text().splitlines()]
        said = [
            {"violates_chosen": True, "violates_rejected": False} if row["pair_id"] != left else {} for row in lines
        ]
        text = "".join(json.dumps(row | label) + "\n" for row, label in zip(lines, said, strict=True))
        (folder / "labelled" / part.name).write_text(text)
    assert decide_run(run, config, changed(config, review_labels=str(folder / "labelled")))
    now = {row["pair_id"]: row["category"] for row in rows(run)}
    assert {now[pair] for pair in undecided - {left}} == {"INVERT"}
    (part,) = (run.place / "review").files(".jsonl")
    assert json.loads(part.read_text())["pair_id"] == left


def test_what_a_kill_left_after_the_end_goes_with_the_next_command(
    plain: Config, folder: Path, fake: FakeEndpoint
) -> None:
    config = configured(plain, folder, fake)
    run = triage(config, folder, "run")
    left = run.triaged.place / "work" / "used" / "x.json"
    for command in (lambda: run_triage(run, config), lambda: decide_run(run, config, config)):
        left.write_text("{}")
        command()
        assert not (run.triaged.place / "work").exists()


def test_a_judge_that_the_limits_refuse_leaves_the_run_as_it_was(
    plain: Config, folder: Path, fake: FakeEndpoint
) -> None:
    config = configured(plain, folder, fake)
    run = triage(config, folder, "run")
    before = rows(run)
    wrong = labelled(folder, [(r["pair_id"], "good" in r["chosen"], "good" in r["rejected"]) for r in before])
    with pytest.raises(JudgeRejectedError, match=r"triage\.min_auc=0\.7"):
        decide_run(run, config, changed(config, audit_labels=wrong))
    assert run.triaged.done()
    assert (rows(run), (run.place / "config.yaml").read_text()) == (before, "written by the pipeline")
    decide_run(run, config, changed(config, audit_labels=wrong, min_auc=0.0))  # as the line advises
    assert run.triaged.manifest()["audit"]["auc"] < 0.1


def test_what_would_have_to_be_judged_is_refused_and_a_finished_triage_says_how(
    plain: Config, folder: Path, fake: FakeEndpoint
) -> None:
    config = configured(plain, folder, fake)
    run = triage(config, folder, "run")
    other = changed(config, judge=replace(config.triage.judge, min_mass=0.1))
    with pytest.raises(UserError, match=r"triage.judge.min_mass: 0.1: deciding goes by .*another run with --run"):
        decide_run(run, config, other)
    run.write_config(dump_config(config))
    now = changed(config, threshold=0.3)
    told = r"`trace-ray decide --run \S+ triage.threshold=0.3`"
    with pytest.raises(StaleRunError, match=told):
        run_triage(run, now)
    with pytest.raises(StaleRunError, match=told):
        hold_settings(run, now, ["triage", "impact"])


@pytest.mark.parametrize("finished_by", ["decide", "triage", "triage with other settings"])
def test_a_killed_decision_is_finished(
    plain: Config, folder: Path, fake: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, finished_by: str
) -> None:
    config = configured(plain, folder, fake)
    run = triage(config, folder, "run")
    now, asked, pairs = changed(config, threshold=0.3), sum(fake.asked.values()), len(rows(run))

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(again, "publish_again", killed)
        with pytest.raises(KeyboardInterrupt):
            decide_run(run, config, now)
    assert (run.triaged.place / WORK / AGAIN).exists()
    assert not run.triaged.done()
    match finished_by:
        case "decide":
            decide_run(run, config, now)
        case "triage":
            run_triage(run, now)
        case _:
            run_triage(run, changed(now, abstain_band=0.01))
    assert sum("UNSURE" in r["chosen"] and r["category"] != "RETAIN" for r in rows(run)) == 2 * PAIRS // 5
    assert len(rows(run)) == pairs
    assert not (run.triaged.place / WORK).exists()
    assert sum(fake.asked.values()) == asked


def test_a_refused_judges_remedy_is_followed_and_its_verdicts_are_kept(
    plain: Config, folder: Path, fake: FakeEndpoint
) -> None:
    config = configured(plain, folder, fake)
    ids = [row["pair_id"] for row in rows(triage(config, folder, "ids"))]
    wrong = labelled(folder, [(pair_id, i % 2 == 0, i % 2 == 1) for i, pair_id in enumerate(ids)])
    strict = changed(config, audit_labels=wrong, min_auc=0.99)
    with pytest.raises(JudgeRejectedError, match=r"lower triage\.min_auc knowingly"):
        triage(strict, folder, "run")
    asked, other = sum(fake.asked.values()), FakeEndpoint()
    moved = replace(config.triage.judge, endpoint=EndpointConfig(base_url=other.url))
    run = triage(changed(strict, min_auc=0.0, judge=moved), folder, "run")
    other.close()
    assert len(rows(run)) == len(ids)
    assert sum(fake.asked.values()) == asked
    assert sum(other.asked.values()) <= 2 * len(ids), "what was judged is kept, whoever answers now"


def test_the_command_says_what_it_did(plain: Config, folder: Path, fake: FakeEndpoint) -> None:
    import typer

    config = configured(plain, folder, fake)
    run = triage(config, folder, "run")
    run.write_config(dump_config(config))
    app = typer.Typer()
    app.command()(decide)
    told = CliRunner().invoke(app, ["--run", run.place.path, "triage.threshold=0.3"], catch_exceptions=False).stdout
    assert told.startswith("decided again, nothing judged: train INVERT")
