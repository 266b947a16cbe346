"""Comparison and watch in a real browser: no overflow, contrast, no script but ours; picked baselines; a run that goes on."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.compare.conftest import finished_run
from tests.compare.test_compare import FULL
from tests.compare.test_compare_answers import answered
from tests.report.chromium import Chromium
from tests.report.contrast import CONTRAST
from tests.report.made_run import AUDIT, MadeRun
from trace_ray.compare.answers import realigned_answers
from trace_ray.compare.collect import collect_all
from trace_ray.compare.page import comparison_page
from trace_ray.report.live import live_fragment, live_page
from trace_ray.report.served import serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    bits = {"a": [True] * 4 + [False, True], "b": [True, True, False, False, True, True]}
    runs = [answered(finished_run(folder / n, "trace", 95.0, "tiny", **FULL), said, n) for n, said in bits.items()]
    made = MadeRun(folder / "made")
    html = {
        "compare": comparison_page(collect_all(runs), [realigned_answers(run) for run in runs]),
        "watch": live_page(made.everything(AUDIT), follows=False),
    }
    files = {name: folder / f"{name}.html" for name in html}
    for name, text in html.items():
        files[name].write_text(text)
    return files


@pytest.mark.parametrize("name", ["compare", "watch"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
def test_a_page_fits_contrasts_and_asks_for_nothing(
    browser: Chromium, pages: dict[str, Path], name: str, width: int, *, dark: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    seen, bad = json.loads(browser.ask(CONTRAST))
    assert seen > 30
    assert bad == []
    urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert urls == [pages[name].as_uri()]
    assert [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


def test_figures_are_in_sight_on_a_phone(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["compare"], width=390)
    cut = "[...document.querySelectorAll('.compared td')].filter((e) => e.getBoundingClientRect().right > 390).length"
    assert browser.ask(cut) == 0


def test_a_baseline_is_picked(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["compare"])
    parts = "[...document.querySelectorAll('[data-baseline]')].filter((e) => !e.hidden)"
    shown = f"{parts}.map((e) => e.querySelector('h3').textContent)"
    assert browser.ask(shown) == ["Against trace (a)"]
    browser.ask(
        "(() => { const b = document.getElementById('baseline'); b.value = '1'; b.dispatchEvent(new Event('change')); })()"
    )
    assert browser.ask(shown) == ["Against trace (b)"]


def test_a_watched_page_follows_the_run(browser: Chromium, tmp_path: Path) -> None:
    """The page is opened before triage is done, and tells of it without being opened again."""
    made = MadeRun(tmp_path / "run")
    pages = {"/": lambda: live_page(made.run, follows=True), "/state": lambda: live_fragment(made.run)}
    with serve(pages, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        browser.visit(f"http://127.0.0.1:{server.server_address[1]}/")
        told = "document.getElementById('live').textContent.includes('2 min 0 s in finished stages')"
        assert browser.ask(told) is False
        made.everything(AUDIT)
        seen = "observe(document.body, { childList: true, subtree: true })"
        heard = f"new MutationObserver(() => {{ if ({told}) done(true); }}).{seen}"
        assert browser.ask(f"new Promise((done) => {{ {heard}; }})") is True
        server.shutdown()
        thread.join()
