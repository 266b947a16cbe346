"""The page in a real browser: no script but ours runs, keys reach everything, nothing overflows, contrast as computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.report.chromium import Chromium
from tests.report.contrast import CONTRAST
from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.config import StorageConfig
from trace_ray.report.page import render
from trace_ray.storage.location import locate
from trace_ray.triage.labels import read_labels

pytestmark = pytest.mark.slow

SEARCH = """(() => {
  const input = document.querySelector("[data-search=pair-list] input");
  input.value = "%s";
  input.dispatchEvent(new Event("input"));
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    file = folder / "report.html"
    file.write_text(render(MadeRun(folder / "run", rows=60).everything(AUDIT), config_of()))
    return file


def test_no_hostile_script_runs_and_nothing_is_requested(browser: Chromium, page: Path) -> None:
    browser.open(page)
    assert browser.ask("typeof window.pwned") == "undefined"
    urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert urls == [page.as_uri()]
    assert [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_visible_text_contrasts(browser: Chromium, page: Path, *, dark: bool) -> None:
    browser.open(page, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    seen, bad = json.loads(browser.ask(CONTRAST))
    assert seen > 200
    assert bad == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_overflows(browser: Chromium, page: Path, width: int) -> None:
    browser.open(page, width=width)
    assert browser.ask("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_source_name_leaves_its_figures_in_sight(browser: Chromium, tmp_path: Path, width: int) -> None:
    made = MadeRun(tmp_path / "run", prompts=20, answer_sources=("short", "x" * 130))
    (tmp_path / "report.html").write_text(render(made.everything(AUDIT), config_of()))
    browser.open(tmp_path / "report.html", width=width)
    browser.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    tables = "[...document.querySelectorAll('.scroll[aria-label^=Target]')]"
    assert browser.ask(f"{tables}.map((e) => e.scrollWidth - e.clientWidth)") == [0, 0]


def test_keys_alone_reach_and_filter_the_pairs(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.press("Tab", 9)
    assert browser.ask("document.activeElement.textContent") == "Skip to the report"
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") != "none"
    for _ in range(200):
        browser.press("Tab", 9)
        if browser.ask("document.activeElement.matches('[data-search=pair-list] input')"):
            break
    assert browser.ask("document.activeElement.type") == "search"
    shown = "[...document.querySelectorAll('#pair-list > li')].filter((e) => !e.hidden).length"
    assert browser.ask(shown) == 10
    for letter in "prompt 41":
        browser.press(letter, ord(letter.upper()), letter)
    assert browser.ask(shown) == 1
    status = browser.ask("document.querySelector('[data-search=pair-list] [role=status]').textContent")
    assert status == "1 shown of 1 found, 60 in all"


def test_more_are_shown_on_demand(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask("document.querySelector('[data-more=pair-list]').click()")
    shown = "[...document.querySelectorAll('#pair-list > li')].filter((e) => !e.hidden).length"
    assert browser.ask(shown) == 30
    assert browser.ask("document.querySelector('[data-more=pair-list]').hidden") is False


def test_a_pair_is_found_by_its_whole_id(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask(SEARCH % f"{41:032x}")
    assert browser.ask("[...document.querySelectorAll('#pair-list > li')].filter((e) => !e.hidden).length") == 1


@pytest.mark.parametrize(("words", "before", "printed"), [("", 10, 60), ("PUNISH", 6, 6), ("INVERT", 10, 12)])
def test_paper_shows_every_entry_that_fits_the_filter(
    browser: Chromium, page: Path, words: str, before: int, printed: int
) -> None:
    browser.open(page)
    browser.ask(SEARCH % words)
    shown = "[...document.querySelectorAll('#pair-list > li')].filter((e) => !e.hidden).length"
    counts = [browser.ask(shown)]
    for event in ("beforeprint", "afterprint"):
        browser.ask(f"dispatchEvent(new Event('{event}'))")
        counts.append(browser.ask(shown))
    assert counts == [before, printed, before]


def pages(browser: Chromium, file: Path) -> int:
    browser.pdf(file)
    printed = file.read_bytes()
    assert printed.startswith(b"%PDF")
    return len(re.findall(rb"/Type\s*/Page\b", printed))


def test_it_prints_a_summary_and_the_details_where_asked(browser: Chromium, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    summary = pages(browser, tmp_path / "report.pdf")
    browser.ask("document.getElementById('print-all').click()")
    assert (summary <= 2, pages(browser, tmp_path / "all.pdf") > 2 * summary) == (True, True)


SHOWN = "[...document.querySelectorAll('#pair-list > li')].filter((e) => !e.hidden)"


def test_a_click_on_a_bar_shows_its_pairs(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask("document.querySelector('[data-filter=PUNISH][data-filter-value=plain]').click()")
    found = browser.ask(f"{SHOWN}.map((e) => [e.dataset.category, e.dataset.source])")
    assert found == [["PUNISH", "plain"]] * 6


def test_pairs_are_sorted_by_nearness_and_length(browser: Chromium, page: Path) -> None:
    browser.open(page)
    for key, sign in (("near", 1), ("length", 1), ("-length", -1)):
        browser.ask(
            "(() => { const s = document.querySelector('[data-sort]'); "
            f"s.value = '{key}'; s.dispatchEvent(new Event('change')); }})()"
        )
        found = browser.ask(f"{SHOWN}.map((e) => Number(e.dataset['{key.lstrip('-')}']))")
        assert found == sorted(found, key=lambda value: sign * value)
        assert len(found) == 10


def test_a_link_shows_its_pair_whatever_is_filtered(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask(SEARCH % "no such words")
    browser.ask(f"location.hash = '#pair-{41:032x}'; new Promise((done) => setTimeout(done, 50))")
    assert browser.ask(f"document.getElementById('pair-{41:032x}').hidden") is False


def test_words_that_are_searched_for_are_highlighted(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask(SEARCH % "rejected 41")
    marked = browser.ask("[...CSS.highlights.get('found')].map((range) => range.toString())")
    assert {"rejected", "41"} == set(marked)


def test_a_review_is_what_triage_reads(browser: Chromium, page: Path, tmp_path: Path) -> None:
    """Pair 0 is backwards: accepted; pair 2 has two wrong responses: overruled, then only the second one; 3 is left open."""
    browser.open(page)
    browser.ask("localStorage.clear()")
    browser.open(page)
    browser.ask("URL.createObjectURL = (blob) => { window.saved = blob; return '#saved'; }")
    for row, word in ((0, "accept"), (2, "overrule"), (3, "unsure"), (4, "accept")):
        browser.ask(f"document.querySelector('#pair-{row:032x} [data-say={word}]').click()")
    box = f"document.querySelector('#pair-{2:032x} [data-bit=chosen]')"
    assert browser.ask(f"[{box}.checked, {box}.closest('.bits').hidden]") == [False, False]
    assert browser.ask(f"document.querySelector('#pair-{9:032x} [data-say=accept]').disabled") is True
    browser.ask("document.querySelector('[data-download]').click()")
    file = tmp_path / "review.jsonl"
    file.write_text(browser.ask("window.saved.text()"))
    labels = read_labels(locate(str(file), StorageConfig()))
    assert labels == {f"{0:032x}": (True, False), f"{2:032x}": (False, True), f"{4:032x}": (False, True)}
    assert "(4)" in browser.ask("document.querySelector('[data-download]').textContent")
    browser.open(page)
    assert "(4)" in browser.ask("document.querySelector('[data-download]').textContent")


def test_one_click_shows_every_hidden_text(browser: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(MadeRun(tmp_path / "run").everything(AUDIT), config_of("report.redact=hide")))
    browser.open(file)
    closed = "[...document.querySelectorAll('#pair-list details.redacted')].filter((e) => !e.open).length"
    assert browser.ask(closed) == 20
    browser.ask("document.querySelector('[data-reveal=pair-list]').click()")
    assert browser.ask(closed) == 0
