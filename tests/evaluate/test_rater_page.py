"""The rater's page in a real browser: click through, download, import."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from trace_ray.evaluate.rating.items import blind_items
from trace_ray.evaluate.rating.page import rater_page
from trace_ray.evaluate.rating.results import rating_results, read_ratings

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
HOSTILE = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\">"


class Page:
    """A page under Chrome's remote debugging protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.ids = socket, count(1)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def run(self, script: str) -> Any:
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key)


def waited(condition: Any) -> Any:
    """Polls until the condition holds, 30 seconds at most."""
    end = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    assert CHROMIUM is not None, "this test clicks through the page: install chromium"
    import urllib.request

    from websockets.sync.client import connect

    profile = tmp_path / "profile"
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    arguments += ["--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen([CHROMIUM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        file = profile / "DevToolsActivePort"
        port = waited(lambda: file.exists() and file.read_text().split("\n")[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        with connect(target["webSocketDebuggerUrl"]) as socket:
            yield Page(socket)
    finally:
        browser.terminate()
        browser.wait(30)


@pytest.mark.slow
def test_a_rater_clicks_through_and_the_download_is_imported(page: Page, tmp_path: Path) -> None:
    answers = {
        name: {f"p{i}": {"prompt": f"{HOSTILE} {i}", "response": f"{name} {HOSTILE} {i}"} for i in range(3)}
        for name in ("trace", "u2a", "base")
    }
    items, _ = blind_items(answers, 0, 0)
    file = tmp_path / "rater.html"
    asked = {"choice": "Which follows the policy better?", "helpful": "Which helps more?"}
    file.write_text(rater_page(items, asked, "Be kind.", "abc"), encoding="utf-8")
    page.send("Page.enable")
    page.send("Page.navigate", url=file.as_uri())
    waited(lambda: page.run("document.readyState") == "complete" and page.run("location.protocol") == "file:")
    start = "document.getElementById('rater').value = 'Ann B'; document.getElementById('begin').click()"
    counted = "document.getElementById('count').textContent"
    page.run(start)
    assert page.run("document.title") == "Which answer is better?"
    assert HOSTILE in page.run("document.getElementById('prompt').textContent")
    assert page.run("document.getElementById('policy').open")
    assert page.run("document.querySelectorAll('#answers .card').length") == 3
    page.run("document.querySelector('[data-column=choice][data-choice=B]').click()")
    assert page.run(counted) == "Item 1 of 3, 0 rated"  # the second question is open
    page.run("document.querySelector('[data-column=helpful][data-choice=bad]').click()")
    assert page.run(counted) == "Item 2 of 3, 1 rated"
    page.press("t")
    page.press("a")
    page.run("document.getElementById('back').click()")
    tie = "document.querySelector('[data-column=choice][data-choice=tie]')"
    assert page.run(f"{tie}.getAttribute('aria-pressed')") == "true"
    noted = "=1, 'odd'"
    page.run(f'const n = document.getElementById("note"); n.value = "{noted}"; n.dispatchEvent(new Event("input"))')
    page.run("document.getElementById('flag').click()")

    page.send("Page.reload")
    waited(lambda: page.run("document.readyState") == "complete")
    page.run(start)
    assert page.run(counted) == "Item 3 of 3, 2 rated"  # kept by the browser
    page.press("c")
    page.press("c")
    assert page.run("document.getElementById('work').hidden")
    assert page.run("document.getElementById('told').textContent") == "3 of 3 are rated."
    page.press("a")  # after the end no key changes the last answer

    downloads = tmp_path / "downloads"
    page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    page.run("document.getElementById('finish').click()")
    (result,) = waited(lambda: list(downloads.glob("*.csv")) if downloads.exists() else [])
    assert result.name == "ratings-abc-Ann_B.csv"
    key = {item.item_id: item.systems for item in items}
    ratings = read_ratings(result.read_text(), key, result.name)
    assert [(r.item_id, r.rater, set(r.best)) for r in ratings] == [
        (items[0].item_id, "Ann B", {items[0].systems["B"]}),
        (items[1].item_id, "Ann B", {"trace", "u2a", "base"}),
        (items[2].item_id, "Ann B", {items[2].systems["C"]}),
    ]
    helpful = read_ratings(result.read_text(), key, result.name, "helpful")
    assert [set(rating.best) for rating in helpful] == [
        {"trace", "u2a", "base"},
        {items[1].systems["A"]},
        {items[2].systems["C"]},
    ]
    (flagged,) = [row for row in csv.DictReader(result.read_text().splitlines()) if row["flag"]]
    assert (flagged["item_id"], flagged["note"]) == (items[1].item_id, f"'{noted}")
    assert rating_results(ratings, key, 200, 0)["raters"] == {"Ann B": 3}


def test_two_answers_are_compared_and_three_ranked() -> None:
    """The words are the page's script's; that they are there is all that can be seen without a browser."""
    page = rater_page([], {"choice": "Which?"}, "", "abc")
    for words in ("is better", "is best", "Both are bad", "All are bad"):
        assert words in page
