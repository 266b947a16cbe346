"""A run in progress: what its page says at each stage, killed and gone on, and who may read it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.report.made_run import AUDIT, MadeRun
from tests.report.test_report_page import Page
from trace_ray.cli.app import app
from trace_ray.errors import UserError
from trace_ray.report.live import HEIGHT, WIDTH, drawn, live_fragment, live_page, live_state
from trace_ray.report.served import serve
from trace_ray.runs.anew import STOPPED
from trace_ray.runs.artifacts import TRAINING_METRICS, WORK
from trace_ray.runs.lock import LOCK, driver_lock
from trace_ray.runs.status import SILENT_SECONDS


def text(html: str) -> str:
    return " ".join(" ".join(part for _, part in Page(html).texts).split())


def test_a_page_follows_a_run_from_triage_to_its_end(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    assert "not begun" in text(live_fragment(made.run))
    made.run.triaged.begin({"corpus file pairs.jsonl (train)": "abcd"})
    decided = made.run.triaged.place / WORK / "decide"
    for block, counts in enumerate(({"train INVERT": 3, "test RETAIN": 4, "broken_json": 2}, {"train ABSTAIN": 1})):
        (decided / f"block-{block:06d}.json").write_text(json.dumps({"counts": {**counts, "triaged": 9}}))
    for block, (busy, waited) in enumerate(((900, 0), (900, 200))):
        tally = {"counts": {"engine_ms": busy, "engine_waited_ms": waited, "responses_judged": 8}}
        (made.run.triaged.place / WORK / "judge" / f"block-{block:06d}.json").write_text(json.dumps(tally))
    live = live_state(made.run)
    assert live.judge_busy == 0.9
    assert "The judge's engine computed 90 % of its time." in text(live_fragment(made.run))
    assert live.categories == {"INVERT": 3, "RETAIN": 4, "ABSTAIN": 1}
    assert live.rejects == {"broken_json": 2}
    assert "8 decided; the judge could not tell 12.5 %" in text(live_fragment(made.run))
    made.everything(AUDIT)
    live = live_state(made.run)
    stored = Counter(row["category"] for row in made.run.triaged.read().to_pylist())
    assert live.decided == 0  # a made run's manifest counts no categories
    assert sum(stored.values()) == made.rows
    assert {curve.title for curve in live.curves} == {"loss of a pair"}
    assert live.steps[-1]["step"] == 5
    assert (live.memory_gib, live.cost.seconds) == (2.5, 120)
    said = text(live_fragment(made.run))
    assert "busy" not in said  # no GPU took part
    metrics = made.run.realign.place / TRAINING_METRICS
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    metrics.write_text(
        "".join(json.dumps(row | {"gpu_busy": 0.5 + 0.1 * (i % 2)}) + "\n" for i, row in enumerate(rows[:4]))
    )
    assert "The training's GPU was busy 55 % of the last steps." in text(live_fragment(made.run))
    assert "step 5/5" in said
    assert "2 min 0 s in finished stages" in said


def test_a_driver_is_told_apart_from_one_that_is_gone(tmp_path: Path) -> None:
    """As after kill -9: its record is left, with a process that lives no more; the next driver goes on."""
    made = MadeRun(tmp_path)
    with driver_lock(made.run.place, doing=lambda: "triage: judge: 5/9 rows, ETA 4 s"):
        assert live_state(made.run).driver_state == "at work"
        record = (made.run.place / "driver.json").read_text()
    assert live_state(made.run).driver is None
    killed = json.loads(record) | {"pid": 2**22 - 1, "born": "1", "doing": "triage: judge: 5/9 rows"}
    (made.run.place / "driver.json").write_text(json.dumps(killed))
    assert "The driver is gone: it was at “triage: judge: 5/9 rows”" in text(live_fragment(made.run))
    with driver_lock(made.run.place, doing=lambda: "triage"):
        assert live_state(made.run).driver_state == "at work"


def test_a_driver_of_another_machine_that_fell_silent_is_not_said_to_be_at_work(tmp_path: Path) -> None:
    """Nobody can look for its process; its record is renewed every five seconds while it lives."""
    made = MadeRun(tmp_path)
    record = {"owner": "o", "beat": 7, "host": "node-7", "machine": "other boot", "pid": 4, "born": "1"}
    lock = Path(made.run.place.path) / LOCK
    lock.write_text(json.dumps(record | {"doing": "realign: 5/40 steps"}))
    for age, state in ((SILENT_SECONDS - 10, "at work"), (SILENT_SECONDS + 41, "silent")):
        os.utime(lock, times=(time.time() - age,) * 2)
        assert live_state(made.run).driver_state == state
    said = text(live_fragment(made.run))
    assert "Nothing was heard of the driver for 1 min 1 s: it was at “realign: 5/40 steps”." in said
    assert "pid 4 on node-7. If it is dead, the same command goes on." in said
    (made.run.place / "config.yaml").write_text("")
    assert "driver silent" in " ".join(CliRunner().invoke(app, ["status", "--run", str(tmp_path)]).stdout.split())


def test_a_stage_that_stopped_says_at_what(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.triage(AUDIT)
    made.run.impact.begin({})
    (made.run.impact.place / STOPPED).write_text(json.dumps("impact.gold: 3: too few; label more"))
    assert "Stage impact stopped: impact.gold: 3: too few; label more" in text(live_fragment(made.run))
    with driver_lock(made.run.place, doing=lambda: "impact"):  # which goes on with it
        assert "stopped" not in text(live_fragment(made.run))


def test_a_file_that_is_cut_short_does_not_end_the_watch(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.everything(AUDIT)
    (made.run.realign.place / "metrics.jsonl").write_text('{"step": 1, "steps": 2}\nbroken\n')
    (made.run.triaged.place / "manifest.json").write_text('{"counts"')
    live = live_state(made.run)
    assert (live.curves, live.categories) == ([], {})
    assert "damaged" in text(live_fragment(made.run))


def test_a_curve_spans_its_values_and_zero() -> None:
    curve = drawn("loss", "", {"INVERT": [(1, 2.0), (3, 6.0)], "RETAIN": [(2, -2.0)]})
    assert (curve.low, curve.high, curve.last_step) == (-2.0, 6.0, 3)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in curve.series["INVERT"].split())
    assert (x0, x1, y1) == (4.0, WIDTH - 4, 4.0)
    assert float(curve.series["RETAIN"].split(",")[1]) == HEIGHT - 4
    assert y0 == pytest.approx(HEIGHT - 4 - (HEIGHT - 8) / 2)


def test_a_snapshot_has_no_script_and_no_link_out(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.everything(AUDIT)
    page = Page(live_page(made.run, follows=False))
    assert not page.all("script", "iframe", "link")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert "script-src" not in policy
    assert len(Page(live_page(made.run, follows=True)).all("script")) == 1


@contextmanager
def served(host: str = "127.0.0.1", token: str = "") -> Iterator[int]:
    with serve({"/": lambda: "<p>here</p>"}, host, 0, token) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


def get(port: int, path: str = "/", **headers: str) -> tuple[int, str, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.getheader("Set-Cookie") or ""


def test_only_this_machine_is_served_without_a_token() -> None:
    with pytest.raises(UserError, match=r"--host: 0\.0\.0\.0"):
        serve({}, "0.0.0.0", 0)
    with served() as port:
        assert get(port)[:2] == (200, "<p>here</p>")
        assert get(port, "/else")[0] == 404
        assert get(port, Host="evil.example")[0] == 403  # a foreign page's name that resolves to this machine
        assert get(port, Host=f"localhost:{port}")[0] == 200
        with pytest.raises(UserError, match="cannot listen there"):
            serve({}, "127.0.0.1", port)


def test_with_a_token_nobody_reads_without_it() -> None:
    with served("0.0.0.0", "s3cret") as port:
        assert [get(port)[0], get(port, "/?token=wrong")[0], get(port, Cookie="trace_ray_watch=s3cre")[0]] == [401] * 3
        code, _, cookie = get(port, "/?token=s3cret", Host="anywhere.example")
        assert (code, "HttpOnly; SameSite=Strict" in cookie) == (200, True)
        assert get(port, Cookie="trace_ray_watch=s3cret")[0] == 200
