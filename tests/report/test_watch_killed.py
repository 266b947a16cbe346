"""`trace-ray watch` beside a real run whose driver is killed twice and started again: what a reader of the page is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.drill import SMALL, WORK
from tests.report.chromium import Chromium
from tests.report.contrast import CONTRAST
from tests.support.cluster import wait_for
from trace_ray.config import StorageConfig
from trace_ray.runs.artifacts import Run
from trace_ray.storage.location import locate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TRACE_RAY = [sys.executable, "-m", "trace_ray.cli"]
ARGUMENTS = [*SMALL, "corpus.limit=160", "evaluate.prompts=4"]
DEADLINE_SECONDS = 900.0
GONE = "The driver is gone"


class Watched:
    """A run, the page that `trace-ray watch` serves of it, and pictures of what it showed."""

    def __init__(self, run: Path, browser: Chromium, address: str) -> None:
        self.run, self.browser, self.address = run, browser, address
        self.pictures = 0

    @property
    def text(self) -> str:
        return str(self.browser.ask("document.body.innerText.replace(/\\s+/g, ' ')"))

    def says(self, words: str) -> None:
        """Returns once the page, which nobody loads again, says so."""
        wait_for(lambda: words in self.text, DEADLINE_SECONDS, f"“{words}” on the page")

    def looked_at(self, name: str) -> None:
        """Keeps the page at both widths, light and dark; it fits its window and can be read."""
        self.pictures += 1
        for width in (390, 1280):
            for dark in (True, False):
                self.browser.size(width=width, dark=dark)
                assert self.browser.ask("document.documentElement.scrollWidth") <= width
                seen, bad = json.loads(self.browser.ask(CONTRAST))
                assert seen > 10
                assert bad == []
                picture = f"{self.pictures}-{name}-{width}-{'dark' if dark else 'light'}.png"
                self.browser.screenshot(self.run.parent / picture)

    def terminal(self) -> str:
        """Returns what `trace-ray status` prints meanwhile."""
        said = subprocess.run(
            [*TRACE_RAY, "status", "--run", str(self.run)], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        (self.run.parent / f"{self.pictures}-status.txt").write_text(said)
        return " ".join(said.split())


Drive = Callable[[Path], subprocess.Popen[bytes]]


@pytest.fixture
def drive() -> Iterator[Drive]:
    """Starts a run, always by the same command; what still works at the end is ended."""
    started = []

    def start(run: Path) -> subprocess.Popen[bytes]:
        with (run.parent / "driver.log").open("ab") as log:
            command = [*TRACE_RAY, "demo", *ARGUMENTS, "--run", str(run)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        return started[-1]

    yield start
    for driver in started:
        driver.kill()
        driver.wait()


@contextmanager
def watching(run: Path, browser: Chromium) -> Iterator[Watched]:
    """`trace-ray watch` on a free port of this machine, open in a browser."""
    command = [*TRACE_RAY, "watch", "--run", str(run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(line for line in server.stderr if "watching: " in line).split()[-1]
            assert address.startswith("http://127.0.0.1:")
            browser.visit(address)
            yield Watched(run, browser, address)
        finally:
            server.terminate()


def kill_at(driver: subprocess.Popen[bytes], page: Watched, stage: str) -> None:
    """Looks at the page while the stage is at work; SIGKILL of the driver alone once some of its work is finished."""
    page.says(f"{stage}: ")
    assert f"pid {driver.pid} on" in page.text
    assert GONE not in page.text
    page.looked_at(f"{stage}-at-work")
    assert "driver at work" in page.terminal()

    def reached() -> bool:
        assert driver.poll() is None, f"ended before {stage}: {(page.run.parent / 'driver.log').read_text()[-2000:]}"
        return len(list(page.run.glob(WORK[stage].parts))) >= WORK[stage].enough

    wait_for(reached, DEADLINE_SECONDS, f"work of {stage}")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    page.says(GONE)
    assert "The same command goes on." in page.text
    assert "heard" not in page.text
    page.looked_at(f"{stage}-killed")
    told = page.terminal()
    assert "driver gone" in told
    assert " at work" not in told


def test_a_page_follows_a_run_that_is_killed_in_triage_and_in_training(
    browser: Chromium, drive: Drive, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = drive(run)
    wait_for((run / "config.yaml").exists, DEADLINE_SECONDS, "the run")
    with watching(run, browser) as page:
        kill_at(first, page, "triage")
        judged = len(list(run.glob(WORK["triage"].parts)))
        second = drive(run)
        page.says(f"pid {second.pid} on")
        assert GONE not in page.text
        assert len(list(run.glob(WORK["triage"].parts))) >= judged
        page.looked_at("gone-on")
        kill_at(second, page, "realign")
        assert "loss of a pair" in page.text
        last = drive(run)
        page.says(f"pid {last.pid} on")
        page.looked_at("gone-on-again")
        assert last.wait(DEADLINE_SECONDS) == 0, (tmp_path / "driver.log").read_text()[-2000:]
        page.says("All stages are done.")
        page.looked_at("done")
        told = page.terminal()
        assert told.split().count("done") == 5
        assert "driver" not in told
        whole = page.text
        browser.visit(f"{page.address}report")
        assert browser.ask("document.querySelectorAll('.decision .verdict-line').length") == 1
    made = Run(locate(str(run), StorageConfig()))
    counts = Counter(made.triaged.read(["category"])["category"].to_pylist())
    for name, number in counts.items():
        assert f"{name} {number:,}" in whole
    assert f"{sum(counts.values()):,} decided" in whole
    steps = [json.loads(line)["step"] for line in (run / "realign" / "metrics.jsonl").read_text().splitlines()]
    assert f"step {max(steps)}/{max(steps)}" in whole
