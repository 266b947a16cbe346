"""The page in a real browser: no script but ours runs, keys reach everything, nothing overflows, contrast as computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.chromium import Chromium
from tests.report.made_run import AUDIT, MadeRun, config_of
from trace_ray.report.page import render

pytestmark = pytest.mark.slow

CONTRAST = """
(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const l = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.checkVisibility() || e.closest("svg") || e.closest("script")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (ratio < 4.5) bad.push([e.tagName, e.className, ratio.toFixed(2), walk.currentNode.textContent.slice(0, 30)]);
  }
  return JSON.stringify([seen, bad]);
})()
"""

SEARCH = """(() => {
  const input = document.querySelector("[data-search=top-pairs] input");
  input.value = "%s";
  input.dispatchEvent(new Event("input"));
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    file = folder / "report.html"
    file.write_text(render(MadeRun(folder / "run", rows=60).everything(AUDIT), config_of()))
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "install chromium to run the slow tests"
    with Chromium(executable) as opened:
        yield opened


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
    for _ in range(80):
        browser.press("Tab", 9)
        if browser.ask("document.activeElement.matches('[data-search=top-pairs] input')"):
            break
    assert browser.ask("document.activeElement.type") == "search"
    shown = "[...document.querySelectorAll('#top-pairs > li')].filter((e) => !e.hidden).length"
    assert browser.ask(shown) == 10
    for letter in "prompt 41":
        browser.press(letter, ord(letter.upper()), letter)
    assert browser.ask(shown) == 1
    status = browser.ask("document.querySelector('[data-search=top-pairs] [role=status]').textContent")
    assert status == "1 shown of 1 found, 18 in all"


def test_more_are_shown_on_demand(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask("document.querySelector('[data-more=top-pairs]').click()")
    shown = "[...document.querySelectorAll('#top-pairs > li')].filter((e) => !e.hidden).length"
    assert browser.ask(shown) == 18
    assert browser.ask("document.querySelector('[data-more=top-pairs]').hidden") is True


def test_a_pair_is_found_by_its_whole_id(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.ask(SEARCH % f"{41:032x}")
    assert browser.ask("[...document.querySelectorAll('#top-pairs > li')].filter((e) => !e.hidden).length") == 1


@pytest.mark.parametrize(("words", "before", "printed"), [("", 10, 18), ("PUNISH", 6, 6), ("INVERT", 10, 12)])
def test_paper_shows_every_entry_that_fits_the_filter(
    browser: Chromium, page: Path, words: str, before: int, printed: int
) -> None:
    browser.open(page)
    browser.ask(SEARCH % words)
    shown = "[...document.querySelectorAll('#top-pairs > li')].filter((e) => !e.hidden).length"
    counts = [browser.ask(shown)]
    for event in ("beforeprint", "afterprint"):
        browser.ask(f"dispatchEvent(new Event('{event}'))")
        counts.append(browser.ask(shown))
    assert counts == [before, printed, before]


def test_it_prints(browser: Chromium, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
