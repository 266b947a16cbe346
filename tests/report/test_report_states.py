"""What each state's page says, read from its text alone, against the run's own files."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.report.made_run import AUDIT, MadeRun, config_of
from tests.report.states import MISTAKE, UNCHECKED, States, states
from tests.report.test_report_page import Page
from trace_ray.pairs import CONFLICTS
from trace_ray.report.page import render
from trace_ray.runs.artifacts import Run

WORDS = {
    "triage-only": "Go on: the corpus is judged; the model has not been realigned and evaluated yet.",
    "finished": "Fix the model: ",
    "failed": f"Fix what stopped realign, then go on: {MISTAKE}.",
    "unchecked": "Fix the model: ",
    "bad-judge": "Stop: the judge of the corpus is not to be trusted. AUC 0.50 on 540 labelled pairs, which ",
    "nothing": "Stop: no pair conflicts with the new policy. There is nothing to realign; keep the model.",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> States:
    """600 pairs of which 5 more were refused; 8 prompts, of which INVERT's four are gained and two of RETAIN lost."""
    folder = tmp_path_factory.mktemp("states")
    whole = MadeRun(folder / "whole", rows=600)
    whole.everything(AUDIT)
    return states(whole.folder, config_of(), folder / "made")


@pytest.fixture(scope="module")
def pages(made: States) -> dict[str, str]:
    return {name: render(run, config) for name, (run, config) in made.items()}


def text(page: str) -> str:
    return " ".join(" ".join(part for _, part in Page(page).texts).split())


def card(page: str, question: str) -> tuple[str, str, str]:
    """Returns tone, answer and sentence of a card."""
    parts = re.findall(r'<li class="card (\w+)">(.*?)</li>', page, re.DOTALL)
    tone, body = next((tone, body) for tone, body in parts if html.escape(question, quote=False) in html.unescape(body))
    answer, sentence = (
        html.unescape(re.search(rf'class="{name}">(.*?)</span>', body, re.DOTALL)[1])  # type: ignore[index]
        for name in ("answer", "sentence")
    )
    return tone, answer, sentence


def categories(run: Run) -> Counter[str]:
    return Counter(run.triaged.read(["category"])["category"].to_pylist())


@pytest.mark.parametrize("name", WORDS)
def test_the_page_opens_with_one_decision(pages: dict[str, str], name: str) -> None:
    said = re.search(r'class="verdict-line"><strong>(.*?)</strong>', pages[name], re.DOTALL)
    assert said is not None
    assert html.unescape(said[1]).startswith(WORDS[name])
    assert ('<pre class="command">' in pages[name]) is (name != "nothing")


@pytest.mark.parametrize("name", WORDS)
def test_the_corpus_is_counted_as_its_parts_hold_it(pages: dict[str, str], made: States, name: str) -> None:
    found = categories(made[name][0])
    total, conflicts = sum(found.values()), sum(found[name] for name in CONFLICTS)
    _, answer, sentence = card(pages[name], "How far is the corpus?")
    assert answer == f"{100 * conflicts / total:.0f} %"
    doubt = " So says a judge that is not to be trusted." if name == "bad-judge" else ""
    kinds = f": {found['INVERT']:,} are backwards, in {found['PUNISH']:,} both responses are wrong" if conflicts else ""
    assert sentence == f"of {total:,} pairs conflict with the new policy{kinds}.{doubt}"
    whole = text(pages[name])
    assert f"Rows read {total + 5:,}" in whole
    assert f"Pairs judged {total:,}" in whole
    assert f"Conflicts {conflicts:,} {found['INVERT']:,} backwards, {found['PUNISH']:,} both wrong" in whole


@pytest.mark.parametrize("name", ["finished", "unchecked"])
def test_the_model_is_counted_as_its_answers_are(pages: dict[str, str], made: States, name: str) -> None:
    parts = (made[name][0].evaluation.place / "responses").files(".parquet")
    rows = [row for part in parts for row in part.read_parquet().to_pylist()]
    complied = {
        model: {row["pair_id"] for row in rows if row["model"] == model and row["compliant"]}
        for model in ("base", "realigned")
    }
    asked = len(rows) // 2
    base, after = (100 * len(complied[model]) / asked for model in ("base", "realigned"))
    _, answer, sentence = card(pages[name], "What changed in the model?")
    assert answer == f"{base:.3g} → {after:.3g} %"
    assert f"of answers to {asked} held-out prompts comply" in sentence
    lost = complied["base"] - complied["realigned"]
    assert f"{len(lost)} of {len(complied['base'])} answers that complied before are lost" in text(pages[name])


@pytest.mark.parametrize("name", ["triage-only", "failed", "bad-judge", "nothing"])
def test_what_no_stage_has_measured_is_not_claimed(pages: dict[str, str], name: str) -> None:
    for question in ("What changed in the model?", "Was anything lost?", "Who judged the answers?"):
        assert card(pages[name], question)[:2] == ("plain", "Not measured")
    assert 'id="worse"' not in pages[name]


def test_each_judge_is_as_good_as_what_is_known_of_it(pages: dict[str, str]) -> None:
    question = "How good is the judge?"
    assert {name: card(pages[name], question)[0] for name in WORDS} == {
        "triage-only": "good",
        "finished": "good",
        "failed": "good",
        "unchecked": "warn",
        "bad-judge": "bad",
        "nothing": "good",
    }
    every = len(config_of().policy.clauses) + 1
    checked = f"Rules in code check {every - 1} of {every} clauses; {UNCHECKED.id} was not judged."
    assert card(pages["unchecked"], question)[2] == checked
    assert "calls 100 % of 1,200 responses violating" in text(pages["bad-judge"])


def test_where_a_stage_stopped_the_page_says_at_what_and_how_to_go_on(pages: dict[str, str], made: States) -> None:
    run, config = made["failed"]
    whole = text(pages["failed"])
    assert "Stage realign stopped: realign.learning_rate: 1.0: loss is not finite for 2 steps, up to step 2." in whole
    assert "What to do: use a lower one." in whole
    again = f"trace-ray run -c {run.place.path}/config.yaml realign.learning_rate=ANOTHER --run {run.place.path}"
    assert again in whole  # the same command would stop at the same place
    assert f"What went wrong Stage realign stopped: {MISTAKE}" in whole
    figures = [json.loads(line) for line in (Path(run.realign.place.path) / "metrics.jsonl").read_text().splitlines()]
    assert f"{figures[-1]['step']} of {figures[-1]['steps']} steps" in whole.replace(",", "")
    from dataclasses import replace

    omitted = render(run, replace(config, report=replace(config.report, redact="omit")))
    assert "loss is not finite" not in omitted
    assert "realign.learning_rate" in omitted


def test_a_diagonal_of_nothing_is_no_agreement(pages: dict[str, str]) -> None:
    diagonal = r'<td class="number right">(\d+)</td>'
    assert "0" not in re.findall(diagonal, pages["bad-judge"])
    assert re.findall(diagonal, pages["finished"])


def test_each_state_is_told_in_its_own_words(pages: dict[str, str]) -> None:
    assert card(pages["nothing"], "Which pairs matter?")[2] == "There is no conflict to weigh."
    assert card(pages["triage-only"], "What did it cost?")[2].startswith("for triage.")
    assert '<option value="">in random order</option>' in pages["triage-only"]
    assert '<option value="">heaviest first</option>' in pages["finished"]
    assert "Note: No pair conflicts with the new policy: there is nothing to realign." in text(pages["nothing"])


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("triage-only", "Conflicts to train on"),
        ("failed", "Conflicts to train on"),
        ("nothing", "Conflicts to train on"),
        ("finished", "Conflicts trained on"),
    ],
)
def test_only_a_finished_training_has_trained(pages: dict[str, str], name: str, last: str) -> None:
    table = text(pages[name].partition('class="funnel">')[2].partition("</table>")[0])
    assert re.findall(r"Conflicts (?:to train|trained) on", table) == [last]


def test_a_judge_that_is_not_trusted_is_doubted_wherever_its_count_stands(pages: dict[str, str]) -> None:
    doubt = "So says a judge that is not to be trusted."
    assert [(name, text(page).count(doubt)) for name, page in pages.items() if doubt in text(page)] == [
        ("bad-judge", 2)
    ]
    assert "This one calls 100 % of 1,200 responses violating : to sit at one end" in text(pages["bad-judge"])


def test_a_clause_without_rule_is_told_apart_from_one_dropped(pages: dict[str, str]) -> None:
    row = next(row for row in re.findall(r"<tr.*?</tr>", pages["unchecked"], re.DOTALL) if UNCHECKED.text in text(row))
    assert "no rule" in text(row)
    assert "not told" not in text(pages["unchecked"])
    assert f"which say nothing of {UNCHECKED.id}. An answer" in text(pages["unchecked"])
