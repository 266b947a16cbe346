"""Labels by people: which pairs are drawn, the page driven in a browser and fed back, several raters merged."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.report.chromium import Chromium
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.in_process import triage_in_process
from trace_ray.cli.label import label_app
from trace_ray.config import Config, CorpusConfig, EndpointConfig, JudgeConfig, StorageConfig, TriageConfig
from trace_ray.config.load import dump_config
from trace_ray.config.policy import ClauseConfig, PolicyConfig
from trace_ray.errors import UserError
from trace_ray.pairs import pair_id
from trace_ray.pipeline import decide_run
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import Location, locate
from trace_ray.triage.labelling.merge import merge_labels
from trace_ray.triage.labelling.page import label_page
from trace_ray.triage.labelling.sample import Candidate, draw
from trace_ray.triage.labels import Label, read_labels
from trace_ray.triage.stage import run_triage

POLICY = PolicyConfig(text="Nothing BAD.", clauses=[ClauseConfig(id="a", text="one"), ClauseConfig(id="b", text="two")])
HOSTILE = "</script><img src=x onerror=document.title='hacked'>"


def place(path: Path) -> Location:
    return locate(str(path), StorageConfig())


def candidates(number: int) -> list[Candidate]:
    drawn = random.Random(1)
    kinds = [("INVERT", "x"), ("RETAIN", "x"), ("PUNISH", "y")]
    return [
        Candidate(
            f"{i:032x}", "q", "c", "r", kinds[0 if i % 10 else 1 + i // 10 % 2], drawn.random(), drawn.random(), None
        )
        for i in range(number)
    ]


def test_every_kind_is_drawn_alike_and_the_worthiest_come_first() -> None:
    made = candidates(300)
    chosen = draw(made, 30)
    assert Counter(candidate.kind for candidate in chosen) == {
        ("INVERT", "x"): 10,
        ("RETAIN", "x"): 10,
        ("PUNISH", "y"): 10,
    }
    assert [candidate.worth for candidate in chosen] == sorted((candidate.worth for candidate in chosen), reverse=True)
    best = sorted(
        (candidate for candidate in made if candidate.kind[0] == "INVERT"), key=lambda candidate: -candidate.worth
    )[:5]
    assert set(best) <= set(chosen), "half of a kind by its worth"
    assert len([candidate for candidate in chosen if candidate.kind[0] == "INVERT" and candidate.worth < 0.9]) >= 3, (
        "and half by chance"
    )


def test_the_same_pairs_are_drawn_in_whatever_pieces_they_come() -> None:
    made = candidates(400)
    drawn: list[Candidate] = []
    for start in range(0, 400, 37):
        drawn = draw([*drawn, *made[start : start + 37]], 25)
    assert drawn == draw(made, 25)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Config]:
    """A triaged run; the judge takes BAD for violating."""
    triage_in_process(monkeypatch)
    kinds = (("BAD", "good"), ("good", "BAD"), ("BAD", "BAD"))
    rows = [
        {"prompt": f"q{i}", "chosen": f"{kinds[i % 3][0]} {HOSTILE} c{i}", "rejected": f"{kinds[i % 3][1]} r{i}"}
        for i in range(30)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fake = FakeEndpoint()
    judge = JudgeConfig(backend="openai", model="m", endpoint=EndpointConfig(base_url=fake.url))
    triage = TriageConfig(judge=judge, min_canary_pass=0.0)
    config = Config(policy=POLICY, corpus=CorpusConfig(paths=(f"{tmp_path}/x.jsonl",)), triage=triage)
    made = Run(place(tmp_path / "run"))
    made.write_config(dump_config(config))
    run_triage(made, config)
    fake.close()
    return made, config


def command(*words: str) -> str:
    result = CliRunner().invoke(label_app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    begin = text.index('id="data">') + len('id="data">')
    return dict(json.loads(text[begin : text.index("</script>", begin)]))


def test_pairs_are_drawn_from_a_run_and_from_a_corpus_that_nobody_judged(
    run: tuple[Run, Config], tmp_path: Path
) -> None:
    opened, _ = run
    told = command("sample", "--run", opened.place.path, "--out", str(tmp_path / "a.html"), "--number", "12")
    assert "12 pairs" in told
    assert f"trace-ray decide --run {opened.place.path} triage.review_labels=labels.jsonl" in told
    judged = data_of(tmp_path / "a.html")
    assert len(judged["pairs"]) == 12
    assert all(pair["said"] is not None for pair in judged["pairs"])
    policy = tmp_path / "p.yaml"
    policy.write_text("policy: {name: p, text: Nothing BAD.}\n")
    words = ["sample", "-c", str(policy), "--corpus", f"{tmp_path}/x.jsonl", "--out", str(tmp_path / "b.html")]
    assert "30 pairs" in command(*words)
    fresh = data_of(tmp_path / "b.html")["pairs"]
    assert {pair["id"] for pair in fresh} == set(opened.triaged.read(["pair_id"])["pair_id"].to_pylist())
    assert {pair["said"] for pair in fresh} == {None}
    with pytest.raises(UserError, match="one of them"):
        command("sample", "--out", "x.html")


@pytest.mark.slow
def test_twenty_pairs_are_answered_downloaded_and_fed_back(run: tuple[Run, Config], tmp_path: Path) -> None:
    opened, config = run
    page = tmp_path / "labels.html"
    command("sample", "--run", opened.place.path, "--out", str(page), "--number", "20")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with Chromium() as browser:
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        browser.open(page)
        browser.ask("document.getElementById('rater').value = 'Ann'; document.getElementById('begin').click()")
        for number in range(20):
            assert browser.ask("document.getElementById('verdict').hidden"), "no verdict before the answer"
            browser.press("y" if number % 2 else "n", 0, "y" if number % 2 else "n")
            browser.press("n", 0, "n")
            assert not browser.ask("document.getElementById('verdict').hidden")
            if number == 1:
                browser.ask("document.querySelector('[data-clause=b]').click()")
            if number == 9:  # closed and opened again: what was answered is there
                browser.open(page)
                browser.ask("document.getElementById('rater').value = 'Ann'; document.getElementById('begin').click()")
                assert browser.ask("document.getElementById('bar').value") == 10
            browser.press("ArrowRight", 39)
        assert browser.ask("document.getElementById('summary').textContent") == "20 of 20 pairs are labelled."
        assert browser.ask("document.title") == "Does it violate the policy?", "no script of a response has run"
        asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert not [url for url in asked if url.startswith("http")]
        written = browser.ask("lines()")
        browser.ask("document.querySelector('#end .download').click()")
        file = downloads / "labels.jsonl"
        for _ in range(100):
            if file.exists():
                break
            browser.ask("new Promise(done => setTimeout(done, 50))")
    assert file.read_text() == written
    rows = [json.loads(line) for line in written.splitlines()]
    assert len(rows) == 20
    assert {row["rater"] for row in rows} == {"Ann"}
    assert sum(row["clauses_chosen"] == ["b"] or row["clauses_rejected"] == ["b"] for row in rows) == 1
    labels = read_labels(place(file))
    now = TriageConfig(judge=config.triage.judge, min_canary_pass=0.0, review_labels=str(file))
    decide_run(opened, config, Config(policy=POLICY, corpus=config.corpus, triage=now))
    wanted = {Label(False, False): "RETAIN", Label(False, True): "RETAIN", Label(True, False): "INVERT"}
    found = {row["pair_id"]: row["category"] for row in opened.triaged.read(["pair_id", "category"]).to_pylist()}
    assert {pair: found[pair] for pair in labels} == {pair: wanted[label] for pair, label in labels.items()}
    assert opened.triaged.manifest()["counts"]["reviewed"] == 20


def rater(folder: Path, name: str, said: dict[str, tuple[bool, bool]]) -> Path:
    file = folder / f"{name}.jsonl"
    rows = [{"pair_id": pair, "violates_chosen": a, "violates_rejected": b} for pair, (a, b) in said.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_raters_are_merged_and_what_they_differ_on_is_decided(run: tuple[Run, Config], tmp_path: Path) -> None:
    opened, _ = run
    ids = opened.triaged.read(["pair_id"])["pair_id"].to_pylist()[:6]
    first = {pair: (i % 2 == 0, False) for i, pair in enumerate(ids)}
    second = first | {ids[0]: (False, False), ids[1]: (True, True)}
    files = [str(rater(tmp_path, name, said)) for name, said in (("ann", first), ("bob", second))]
    words = ["--out", str(tmp_path / "all.jsonl"), "--page", str(tmp_path / "open.html"), "--run", opened.place.path]
    told = command("merge", *files, *words)
    assert "2 raters, Krippendorff's alpha" in told
    assert "2 left on which they differ" in told
    assert {pair["id"] for pair in data_of(tmp_path / "open.html")["pairs"]} == set(ids[:2])
    decided = rater(tmp_path, "chair", {ids[0]: (True, False), ids[1]: (True, True)})
    assert "0 left" in command("merge", *files, "--out", str(tmp_path / "all.jsonl"), "--decided", str(decided))
    said = read_labels(place(tmp_path / "all.jsonl"))
    assert said == {p: Label(*answer) for p, answer in (first | {ids[0]: (True, False), ids[1]: (True, True)}).items()}


def test_of_three_raters_two_are_enough(tmp_path: Path) -> None:
    files = [
        rater(tmp_path, f"r{i}", {"p": (vote, True), "q": (True, True)}) for i, vote in enumerate((True, True, False))
    ]
    merged = merge_labels([place(file) for file in files])
    assert merged.labels == {"p": Label(True, True), "q": Label(True, True)}
    assert merged.differ == []


def test_nothing_on_the_page_ends_its_data(tmp_path: Path) -> None:
    pair = pair_id([{"role": "user", "content": HOSTILE}], HOSTILE, "r")
    file = tmp_path / "x.html"
    file.write_text(label_page([Candidate(pair, HOSTILE, HOSTILE, "r", (), 0.0, 0.0, (0.5, None))], POLICY, 0.5))
    assert data_of(file)["pairs"][0]["answers"][0] == HOSTILE
    assert "<img" not in file.read_text()
