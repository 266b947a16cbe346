"""Pages as their readers meet them, in a real browser: six states, six questions, a run that is killed and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.chromium import Chromium
from tests.report.contrast import CONTRAST
from tests.report.made_run import AUDIT, MadeRun, config_of
from tests.report.questions import QUESTIONS, answers
from tests.report.states import states
from trace_ray.config.policy import ClauseConfig, RuleConfig
from trace_ray.pairs import CONFLICTS
from trace_ray.report.live import live_fragment, live_page
from trace_ray.report.page import render
from trace_ray.report.served import serve
from trace_ray.runs.artifacts import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("states")
    MadeRun(folder / "whole", rows=60).everything(AUDIT)
    files = {}
    for name, (run, config) in states(folder / "whole", config_of(), folder / "made").items():
        files[name] = folder / f"{name}.html"
        files[name].write_text(render(run, config))
    return files


@pytest.mark.parametrize("name", ["triage-only", "finished", "failed", "unchecked", "bad-judge", "nothing"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_every_state_fits_contrasts_and_asks_for_nothing(
    browser: Chromium, pages: dict[str, Path], name: str, width: int, *, dark: bool
) -> None:
    browser.open(pages[name], width=width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    seen, bad = json.loads(browser.ask(CONTRAST))
    assert seen > 80
    assert bad == []
    urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert urls == [pages[name].as_uri()]


def test_the_six_questions_are_answered_on_the_page(browser: Chromium, tmp_path: Path) -> None:
    """What stands at each selector is what the run's parts hold."""
    previous = "policy.previous={name: old, version: '0', text: Answer at length., clauses: []}"
    made = MadeRun(tmp_path / "run", rows=600)
    run = made.everything(AUDIT)
    config = config_of(previous)
    brief = ClauseConfig(id="brief", text="In two words.", rule=RuleConfig(max_words=2))  # which every made text breaks
    config = replace(config, policy=replace(config.policy, clauses=[brief]))
    (tmp_path / "report.html").write_text(render(run, config))
    browser.open(tmp_path / "report.html")
    found = {(question, selector): texts for question, selector, texts in answers(browser)}
    assert {question for question, _ in found} == set(QUESTIONS)
    assert [key for key, texts in found.items() if not any(texts)] == []
    at = {selector: texts for (_, selector), texts in found.items()}
    assert "Compared with “old”, version 0" in at["section[aria-labelledby=policy] > p"][0]
    conflicts = sum(run.triaged.read(["category"])["category"].to_pylist().count(name) for name in CONFLICTS)
    assert any(text.startswith(f"Conflicts{conflicts}") for text in (t.replace(" ", "") for t in at[".funnel tr.sum"]))
    assert "SECRET" in at[".clauses .example"][0]
    heaviest = at["#pair-list > li[data-category=INVERT] article"][0]  # a row's impact is its number less 2
    assert "SECRET chosen 591 " in heaviest
    assert "kappa 0.80" in at[".cards a[href='#judge']"][0]
    assert "50 → 75 %" in at[".cards a[href='#change']"][0]
    assert "2 of 4 answers that complied before are lost" in at["section[aria-labelledby=worse] > h2 + p"][0]
    assert at[".decision .command"][0].startswith("trace-ray run -c ")


DRIVER = """
import sys
from pathlib import Path
from tests.report.made_run import AUDIT, MadeRun
from trace_ray.runs.lock import driver_lock

made = MadeRun(Path(sys.argv[1]))
with driver_lock(made.run.place, doing=lambda: sys.argv[2]):
    if sys.argv[2].startswith("triage"):
        made.run.triaged.begin({"corpus file pairs.jsonl (train)": "abcd"})
    else:
        made.everything(AUDIT)
        made.run.report.write_text("<p>all of it</p>")
    print("there", flush=True)
    sys.stdin.read()
"""


@contextmanager
def driving(folder: Path, doing: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run and has written what it says; it ends when its standard input does."""
    command = [sys.executable, "-c", DRIVER, str(folder), doing]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "there\n"
        yield driver


def wait_for(browser: Chromium, words: str) -> None:
    """Returns when the open page says so; the protocol's own time limit ends it otherwise."""
    there = f"document.getElementById('live').textContent.replace(/\\s+/g, ' ').includes({json.dumps(words)})"
    seen = "observe(document.body, { childList: true, subtree: true, characterData: true })"
    heard = f"new MutationObserver(() => {{ if ({there}) done(true); }}).{seen}"
    assert browser.ask(f"new Promise((done) => {{ if ({there}) done(true); {heard}; }})") is True


def test_a_watched_run_is_killed_and_goes_on(browser: Chromium, tmp_path: Path) -> None:
    """Two real drivers, the first ended by SIGKILL; the page is opened once and follows."""
    run: Run = MadeRun(tmp_path / "run").run
    pages = {"/": lambda: live_page(run, follows=True), "/state": lambda: live_fragment(run)}
    with serve(pages, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with driving(tmp_path / "run", "triage: judge: 5/9 rows, ETA 4 s") as first:
            browser.visit(f"http://127.0.0.1:{server.server_address[1]}/")
            wait_for(browser, "triage: judge: 5/9 rows, ETA 4 s pid")
            first.kill()
        wait_for(browser, "The driver is gone: it was at “triage: judge: 5/9 rows, ETA 4 s”. The same command goes on.")
        with driving(tmp_path / "run", "evaluate: judge: 3/8 answers") as second:
            wait_for(browser, "evaluate: judge: 3/8 answers pid")
            wait_for(browser, "2 min 0 s in finished stages")
            assert second.stdin is not None
            second.stdin.close()
        wait_for(browser, "All stages are done.")
        assert browser.ask("document.querySelectorAll('#live a[href=report]').length") == 1
        server.shutdown()
        thread.join()
